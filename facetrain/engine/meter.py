"""The log of a training: lines, `log.jsonl`, TensorBoard and other trackers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from facetrain.core.artifact import atomic_path
from facetrain.core.log import logger
from facetrain.core.run_folder import LOG_FILE
from facetrain.engine.trackers import TensorBoardTracker, Tracker


def format_duration(seconds: float) -> str:
    """`h:mm:ss`, for a person."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


class RunLog:
    """Rank 0's record of a run: `log.jsonl`, lines on stderr, TensorBoard and other trackers.

    Args:
        start_step: steps already done; later entries of an interrupted run are dropped, since
            those steps are run again.
        trackers: what takes the numbers besides TensorBoard; closed with this log.
    """

    def __init__(self, out_dir: Path, start_step: int, trackers: Sequence[Tracker] = ()) -> None:
        self.path = out_dir / LOG_FILE
        kept = [entry for entry in read_run_log(self.path) if entry["step"] <= start_step]
        with atomic_path(self.path) as temporary:  # a kill here must not cost the log
            lines = "".join(json.dumps(entry) + "\n" for entry in kept)
            temporary.write_text(lines, encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()
        self._trackers = [TensorBoardTracker(out_dir, start_step), *trackers]

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _track(self, step: int, numbers: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.scalars(step, numbers)

    def training(
        self,
        step: int,
        num_steps: int,
        epoch: float,
        scalars: Mapping[str, float],
        *,
        images_per_second: float,
        seconds_left: float,
    ) -> None:
        """Record a window of training steps that ended after `step` steps."""
        numbers = {**scalars, "images_per_second": round(images_per_second, 1)}
        self._write({"step": step, "epoch": round(epoch, 4), **numbers})
        self._track(step, {f"train/{name}": value for name, value in numbers.items()})
        logger.info(
            "step %d/%d  epoch %.2f  loss %.4f  lr %.5f  %.0f images/s  %s left",
            step,
            num_steps,
            epoch,
            scalars["loss"],
            scalars["learning_rate"],
            images_per_second,
            format_duration(seconds_left),
        )

    def evaluation(self, step: int, numbers: Mapping[str, Mapping[str, Any]]) -> None:
        """Record a verification result: set name -> numbers."""
        self._write({"step": step, "evaluation": numbers})
        judged = {name: one for name, one in numbers.items() if one["accuracy"] is not None}
        self._track(step, {f"evaluate/{name}": one["accuracy"] for name, one in judged.items()})
        for name, values in judged.items():  # not those with pairs of one kind only
            logger.info(
                "step %d  %s accuracy %.4f +- %.4f",
                step,
                name,
                values["accuracy"],
                values["accuracy_std"],
            )

    def close(self) -> None:
        """Flush and close the files and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


class _Window(BaseModel):
    """A line about steps of training."""

    step: int
    epoch: float
    loss: float
    learning_rate: float


class _Accuracy(BaseModel):
    accuracy: float | None


class _Evaluation(BaseModel):
    """A line about an evaluation."""

    step: int
    evaluation: dict[str, _Accuracy]


def read_run_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a `log.jsonl`; a line cut short by a kill, or damaged, is left out."""
    entries: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                (_Evaluation if "evaluation" in entry else _Window).model_validate(entry)
            except (ValueError, TypeError, RecursionError):
                continue
            entries.append(entry)
    return entries
