"""The overlay that a cleaner writes over other overlays, worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from facetrain.clean.answer import Cleaned, overlay
from facetrain.data.dataset import FaceDataset
from facetrain.data.face_shard import FaceShardWriter
from facetrain.data.images import encode_jpeg
from facetrain.data.overlay import LabelOverlay

NOBODY = np.zeros(5, np.bool_)


@pytest.fixture
def dataset(tmp_path: Path) -> FaceDataset:
    """Rows 0..5 of classes 7, 7, 8, 8, 9, 9; an overlay beneath drops row 2, calls row 4 a 7."""
    with FaceShardWriter(tmp_path / "train.rec") as writer:
        for label in (7, 7, 8, 8, 9, 9):
            writer.write(label, encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    LabelOverlay.make(
        np.array([-1, -1, 8, -1, 7, -1]),
        np.array([True, True, False, True, True, True]),
        source=np.array([0, 0, 1, 0, 1, 0]),
        source_names=("", "review"),
    ).save(tmp_path / "beneath.npz")
    return FaceDataset.open(tmp_path, [tmp_path / "beneath.npz"])


def cleaned(dataset: FaceDataset) -> Cleaned:
    """Everything is dropped; the first image (of class 7) seems to be a 9."""
    assert dataset.row.tolist() == [0, 1, 3, 4, 5]
    assert dataset.label.tolist() == [0, 0, 1, 0, 2]
    nothing = np.full(5, -1)
    suggested = np.array([2, -1, -1, 2, -1])
    return Cleaned(
        np.full(5, 0.1, np.float32), np.full(3, 0.5, np.float32), NOBODY, suggested, nothing,
        nothing, NOBODY, NOBODY,
    )  # fmt: skip


def over(dataset: FaceDataset, opinion: LabelOverlay, tmp_path: Path) -> dict[int, int]:
    """Row -> class id of the data set with both overlays."""
    opinion.save(tmp_path / "opinion.npz")
    both = FaceDataset.open(tmp_path, [tmp_path / "beneath.npz", tmp_path / "opinion.npz"])
    return dict(zip(both.row.tolist(), both.class_ids[both.label].tolist(), strict=True))


def test_what_is_left_out_beneath_stays_out(dataset: FaceDataset, tmp_path: Path) -> None:
    opinion = overlay(cleaned(dataset), dataset.label, dataset, True, NOBODY)
    assert over(dataset, opinion, tmp_path) == {0: 9, 4: 9}


def test_what_a_person_decided_is_left_alone(dataset: FaceDataset, tmp_path: Path) -> None:
    decided = np.array([True, False, False, True, False])  # rows 0 and 4
    opinion = overlay(cleaned(dataset), dataset.label, dataset, True, decided)
    assert over(dataset, opinion, tmp_path) == {0: 7, 4: 7}
    assert opinion.source.tolist() == [0, 1, 0, 1, 0, 1]
    # In the other order too: it says nothing of these rows.
    LabelOverlay.load(tmp_path / "opinion.npz")
    reversed_order = [tmp_path / "opinion.npz", tmp_path / "beneath.npz"]
    both = FaceDataset.open(tmp_path, reversed_order)
    assert dict(zip(both.row.tolist(), both.class_ids[both.label].tolist(), strict=True)) == {
        0: 7,
        4: 7,
    }


def test_images_that_were_not_judged_stay_as_they_are(dataset: FaceDataset, tmp_path: Path) -> None:
    label = dataset.label.copy()
    label[[1, 3]] = -1
    opinion = overlay(cleaned(dataset), label, dataset, False, NOBODY)
    assert over(dataset, opinion, tmp_path) == {1: 7, 4: 7}
