"""What the trackers receive is what the log says; nothing is sent."""

import os
from pathlib import Path
from typing import Any

import pytest

from facetrain.core.errors import ConfigError
from facetrain.engine import trackers
from facetrain.engine.meter import RunLog, read_run_log
from facetrain.engine.trackers import make_tracker

SETTINGS = {"seed": 3, "head": {"scale": 64.0}}


class Received:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def scalars(self, step: int, numbers: Any) -> None:
        self.rows.append((step, dict(numbers)))

    def close(self) -> None:
        self.closed += 1


def write(log: RunLog, step: int, loss: float) -> None:
    numbers = {"loss": loss, "learning_rate": 0.1}
    log.training(step, 9, 0.5, numbers, images_per_second=12.34, seconds_left=1)


def test_a_folder_that_tensorboard_cannot_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"caf\\udce9: must have a name in UTF-8"):
        trackers.TensorBoardTracker(tmp_path / os.fsdecode(b"caf\xe9"), 0)


def test_every_tracker_gets_what_the_log_gets(tmp_path: Path) -> None:
    one, other = Received(), Received()
    log = RunLog(tmp_path, 0, [one, other])
    write(log, 3, 2.5)
    log.evaluation(3, {"lfw": {"accuracy": 0.75, "accuracy_std": 0.01}})
    log.close()
    train = {"train/loss": 2.5, "train/learning_rate": 0.1, "train/images_per_second": 12.3}
    assert one.rows == other.rows == [(3, train), (3, {"evaluate/lfw": 0.75})]
    assert (one.closed, other.closed) == (1, 1)
    assert read_run_log(tmp_path / "log.jsonl")[0]["loss"] == 2.5


def test_mlflow_keeps_one_run_over_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "run" / "train"
    for start, step, loss in ((0, 3, 2.5), (3, 6, 1.5)):
        log = RunLog(out, start, [make_tracker("mlflow", out, SETTINGS)])
        write(log, step, loss)
        log.close()
    client = mlflow.MlflowClient((out / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("facetrain").experiment_id])
    assert run.info.run_name == "run/train"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "head.scale": "64.0"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(3, 2.5), (6, 1.5)]


@pytest.mark.slow
def test_wandb_offline_keeps_one_id_over_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "run" / "train"
    for start, step, loss in ((0, 3, 2.515625), (3, 6, 1.515625)):
        log = RunLog(out, start, [make_tracker("wandb", out, SETTINGS)])
        write(log, step, loss)
        log.close()
    wandb.teardown()  # its service writes behind our back, until it ends
    files = sorted((out / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1  # one curve, continued
    for file, loss in zip(files, (b"2.515625", b"1.515625"), strict=True):
        written = file.read_bytes()
        assert b"train/loss" in written
        assert loss in written
        assert b"head" in written


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_told(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ImportError(f"No module named '{name}'")

    kind = {"wandb": "WandbTracker", "mlflow": "MlflowTracker"}[name]
    monkeypatch.setattr(trackers, kind, missing)
    with pytest.raises(ConfigError, match=f"pip install '.\\[{name}\\]' in"):
        make_tracker(name, tmp_path, {})
