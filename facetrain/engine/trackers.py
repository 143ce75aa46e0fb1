"""Where a training's numbers go besides `log.jsonl`: TensorBoard, and Weights & Biases or MLflow.

An adapter knows one thing: numbers at a step. Each keeps the id of its run in the stage's folder,
so that a resumed training continues the same curves.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import ConfigError
from facetrain.core.text import printable

TrackerName = Literal["wandb", "mlflow"]
PROJECT = "facetrain"


class Tracker(Protocol):
    """A receiver of numbers."""

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take numbers by name, as they are after `step` steps."""

    def close(self) -> None:
        """Hand over what is still held."""


def make_tracker(name: TrackerName, out_dir: Path, settings: Mapping[str, Any]) -> Tracker:
    """The tracker of that name, for the stage in `out_dir` with these settings.

    Raises:
        ConfigError: its package is not installed.
    """
    try:
        if name == "wandb":
            return WandbTracker(out_dir, settings)
        return MlflowTracker(out_dir, settings)
    except ImportError as error:
        raise ConfigError(
            f"train.tracker={name} needs a package that is not installed ({error}); "
            f"pip install '.[{name}]' in facetrain's folder, or leave train.tracker out"
        ) from None


class TensorBoardTracker:
    """Event files in `out_dir/tensorboard`; steps after `start_step` are written anew."""

    def __init__(self, out_dir: Path, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second to import

        try:
            self._board = SummaryWriter(str(out_dir / "tensorboard"), purge_step=start_step)
        except UnicodeEncodeError:
            raise ConfigError(
                f"{printable(out_dir)}: must have a name in UTF-8, which TensorBoard and "
                "safetensors ask for; choose another --out"
            ) from None

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self._board.close()


class WandbTracker:
    """A run of Weights & Biases, its files in `out_dir`; WANDB_MODE=offline sends nothing."""

    def __init__(self, out_dir: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        kept = out_dir / "wandb_run.txt"
        identifier = kept.read_text() if kept.is_file() else uuid.uuid4().hex[:8]
        _keep(kept, identifier)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=f"{out_dir.absolute().parent.name}/{out_dir.name}",
            id=identifier,
            resume="allow",
            dir=str(out_dir),
            config=dict(settings),
        )

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """One row of the run's history."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MlflowTracker:
    """A run of MLflow: on the server that MLFLOW_TRACKING_URI names, else `out_dir/mlruns`."""

    def __init__(self, out_dir: Path, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        server = os.environ.get("MLFLOW_TRACKING_URI")
        if server is None:  # files alone, which MLflow 3 wants confirmed
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            server = (out_dir / "mlruns").absolute().as_uri()
        self._client = MlflowClient(server)
        kept = out_dir / "mlflow_run.txt"
        if kept.is_file():
            self._run = kept.read_text()
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        name = f"{out_dir.absolute().parent.name}/{out_dir.name}"
        self._run = self._client.create_run(number, run_name=name).info.run_id
        for key, value in flat(settings).items():
            self._client.log_param(self._run, key, value)
        _keep(kept, self._run)

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """One metric each."""
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, float(value), step=step)

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key` -> value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _keep(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
