"""What a method gave to every image, from the files of its training to the pictures."""

from pathlib import Path

import numpy as np
import pytest
from helpers.manifest import change_manifest, plain_manifest
from helpers.reports import LABEL, write_run

from facetrain.core.errors import DataError
from facetrain.data.sample_history import read_samples
from facetrain.data.variation.labels import VARIATION_FILE, Variations, save_variations
from facetrain.report.run import Run, Stage
from facetrain.report.style import Gallery, Picture
from facetrain.report.training_gallery import draw_training


def write_samples(stage: Path, epochs: range, **values: np.ndarray) -> None:
    (stage / "samples").mkdir(exist_ok=True)
    for epoch in epochs:
        arrays = {name: (value + epoch / 1000).astype(np.float32) for name, value in values.items()}
        np.savez(stage / "samples" / f"epoch_{epoch:04d}.npz", **arrays)


def drawn_of(run: Run, stage: Stage) -> list[Picture]:
    gallery = Gallery(run.folder / "pictures")
    draw_training(run, stage, gallery)
    return gallery.pictures


def with_method(run: Path, **robust: object) -> None:
    change_manifest(run / "train", lambda manifest: manifest["config"].update(robust=robust))


def test_at_most_twelve_epochs_are_read_the_first_and_the_last_among_them(tmp_path: Path) -> None:
    write_samples(tmp_path, range(3, 33), weight=np.zeros(4))
    epochs, values = read_samples(tmp_path, 12)["weight"]
    assert len(epochs) == 12
    assert (epochs[0], epochs[-1]) == (3, 32)
    assert (np.diff(epochs) >= 2).all()
    np.testing.assert_allclose(values, np.repeat(epochs[:, None] / 1000, 4, axis=1), rtol=1e-6)
    assert read_samples(tmp_path / "none") == {}
    (tmp_path / "samples" / "epoch_0032.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"epoch_0032\.npz: must be what a training kept"):
        read_samples(tmp_path)


def test_what_began_later_has_fewer_epochs(tmp_path: Path) -> None:
    write_samples(tmp_path, range(1, 3), weight=np.zeros(4))
    write_samples(tmp_path, range(3, 5), weight=np.zeros(4), estimated_label=np.zeros(4))
    records = read_samples(tmp_path, 12)
    assert records["weight"].epochs.tolist() == [1, 2, 3, 4]
    assert records["estimated_label"].epochs.tolist() == [3, 4]


@pytest.mark.parametrize("finished", [True, False])
def test_each_record_has_its_picture(finished: bool, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with_method(run, name="superloss", lam=1.0)
    weight = np.linspace(0, 1, 12)
    weight[5] = np.nan
    values = {"weight": weight, "alpha": weight, "beta": 1 - weight}
    write_samples(run / "train", range(1, 4), **values, estimated_label=LABEL.astype(float))
    if not finished:
        (run / "train" / "manifest.json").unlink()
        (run / "train" / "checkpoints").mkdir()
    opened = Run(run)
    stage = next(stage for stage in opened.stages if stage.name == "train")
    drawn = drawn_of(opened, stage)
    names = [picture.path.stem for picture in drawn]
    truth = "noise slides" in drawn[0].caption
    # Unfinished, it does not say yet what data it is on, nor which method.
    expected = ["weights", "alpha_beta", *(["confusion", "superloss"] if finished else [])]
    assert names == expected
    assert truth == finished
    assert all(picture.path.is_file() for picture in drawn)


def test_samples_of_other_images_are_drawn_without_the_truth(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_samples(run / "train", range(1, 3), weight=np.linspace(0, 1, 7))
    opened = Run(run)
    (picture,) = drawn_of(opened, opened.stages[0])
    assert "noise slides" not in picture.caption


def test_margins_of_a_fine_tuning_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    config = dict(Run(run).stages[0].manifest["config"])  # type: ignore[index]
    tuned = run / "finetune"
    mvcom = {"method": "mvcom", "variation": None}
    plain_manifest(tuned, "finetune", config=config | {"finetune": mvcom})
    margin = np.linspace(0.1, 0.5, 12)
    write_samples(tuned, range(1, 3), margin=margin, residual=margin - 0.3)
    opened = Run(run)
    stage = next(stage for stage in opened.stages if stage.kind == "finetune")
    drawn = drawn_of(opened, stage)
    assert [picture.path.stem for picture in drawn] == ["margins"]
    pose = {"pose": (np.arange(12) % 3).astype(np.int8)}
    variations = Variations(pose, {"pose": ("front", "half", "profile")})
    save_variations(run.parent / "faces" / VARIATION_FILE, variations)
    drawn = drawn_of(opened, stage)
    names = ["margins", "margin_levels", "margin_faces", "long_tails"]
    assert [picture.path.stem for picture in drawn] == names
    assert all(picture.path.is_file() for picture in drawn)
