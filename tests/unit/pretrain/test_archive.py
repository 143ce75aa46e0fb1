"""Which training stays, steps aside or comes back, as folders."""

from pathlib import Path

import pytest
from helpers.manifest import plain_manifest

from facetrain.core.artifact import write_sealed
from facetrain.engine.checkpoint import Progress
from facetrain.pretrain.archive import archive_other_training, trained_on


def finished(folder: Path, data: str, weights: str = "") -> None:
    begun = {"weights": weights} if weights else {}
    plain_manifest(folder, "train", inputs={"data": data, **begun})


def interrupted(folder: Path, *steps: tuple[int, str]) -> None:
    for step, data in steps:
        progress = Progress(
            step=step, identity={"data set or overlay": data, "model.weights": ""}, world_size=1,
            optimizer_state=[], loss_scale={}, first_loss=1.0, metrics={},
        )  # fmt: skip
        checkpoint = folder / "checkpoints" / f"step_{step:010d}"
        write_sealed(checkpoint / "progress.json", progress)


def folders(path: Path) -> dict[str, str | None]:
    """The data that each training is of."""
    found = {one.name: trained_on(one) for one in sorted(path.iterdir())}
    return {name: one and one[0] for name, one in found.items()}


def test_what_a_training_was_on(tmp_path: Path) -> None:
    assert trained_on(tmp_path / "none") is None
    (tmp_path / "begun").mkdir()
    assert trained_on(tmp_path / "begun") is None
    finished(tmp_path / "finished", "a")
    interrupted(tmp_path / "interrupted", (3, "x"), (12, "b"))
    finished(tmp_path / "continued", "a", "w")
    assert trained_on(tmp_path / "finished") == ("a", "")
    assert trained_on(tmp_path / "interrupted") == ("b", "")
    assert trained_on(tmp_path / "continued") == ("a", "w")


@pytest.mark.parametrize("kind", ["finished", "interrupted"])
def test_a_training_on_other_labels_steps_aside(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "retrain"
    finished(folder, "a") if kind == "finished" else interrupted(folder, (3, "a"))
    archive_other_training(folder, "a", "")
    assert folders(tmp_path) == {"retrain": "a"}  # the same labels: it is skipped, or goes on
    archive_other_training(folder, "b", "")
    assert folders(tmp_path) == {"retrain.previous-1": "a"}
    archive_other_training(folder, "b", "")  # killed before the first checkpoint, and again
    interrupted(folder, (3, "b"))
    archive_other_training(folder, "c", "")
    assert folders(tmp_path) == {"retrain.previous-1": "a", "retrain.previous-2": "b"}


def test_one_that_was_on_these_labels_comes_back(tmp_path: Path) -> None:
    """Decide, train, undo, train: the first is there again, and the second is kept."""
    folder = tmp_path / "retrain"
    finished(folder, "a")
    archive_other_training(folder, "b", "")
    finished(folder, "b")
    archive_other_training(folder, "a", "")
    assert folders(tmp_path) == {"retrain": "a", "retrain.previous-2": "b"}
    archive_other_training(folder, "b", "")
    assert folders(tmp_path) == {"retrain": "b", "retrain.previous-1": "a"}


def test_a_folder_that_was_only_begun_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "retrain"
    finished(folder, "a")
    archive_other_training(folder, "b", "")
    folder.mkdir()
    (folder / "log.jsonl").write_text("")
    archive_other_training(folder, "a", "")
    assert folders(tmp_path) == {"retrain": "a"}
    assert not (folder / "log.jsonl").exists()


def test_one_that_began_with_other_weights_steps_aside(tmp_path: Path) -> None:
    """A decision may change what an earlier round trained on, and not what this one does."""
    folder = tmp_path / "retrain"
    finished(folder, "a", "w")
    archive_other_training(folder, "a", "w")
    assert folders(tmp_path) == {"retrain": "a"}
    archive_other_training(folder, "a", "v")
    assert folders(tmp_path) == {"retrain.previous-1": "a"}
    finished(folder, "a", "v")
    archive_other_training(folder, "a", "w")
    assert trained_on(folder) == ("a", "w")
