"""A run's data set and answer read back in places of its classes, by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reports import (
    CLASS_IDS,
    LABEL,
    RESULT,
    SUGGESTED,
    TRUE_LABEL,
    finish_cleaning,
    opened,
    write_run,
)

from facetrain.core.errors import DataError
from facetrain.data.cleaned_set import CleanedSet, class_place, cleaned_data
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.stage_data import write_stage_data


def test_places_of_labels_by_hand() -> None:
    assert class_place(np.array([3, 5, 9]), [9, 3, 4, -1, 12]).tolist() == [2, 0, -1, -1, -1]


def test_labels_become_places(tmp_path: Path) -> None:
    """The classes are called 10, 20 and 30; class 20 is judged to be the person of 30."""
    run = write_run(tmp_path)
    merge = np.where(LABEL == 1, 30, -1)
    some = {"class_id": np.array([10, 30]), "threshold": np.array([0.4, 0.6], np.float32)}
    dataclasses.replace(RESULT, merge_label=merge, **some).save(run / "clean" / "clean.npz")
    moved = np.where(np.arange(12) == 3, 20, CLASS_IDS[LABEL])
    LabelOverlay.make(moved, np.arange(12) != 11).save(run / "clean" / "overlay.npz")
    cleaned = opened(run)
    assert cleaned.suggested.tolist() == SUGGESTED.tolist()
    assert cleaned.merge.tolist() == [-1, 2, -1]
    np.testing.assert_array_equal(cleaned.threshold, np.array([0.4, np.nan, 0.6], np.float32))
    assert cleaned.label_after.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]
    assert np.flatnonzero(~cleaned.kept_after).tolist() == [11]
    assert cleaned.is_clean is not None
    assert np.array_equal(cleaned.is_clean, CLASS_IDS[LABEL] == TRUE_LABEL)
    right = cleaned.is_right(cleaned.suggested)
    assert right is not None
    assert np.flatnonzero(right).tolist() == [3]


def test_swaps_by_hand(tmp_path: Path) -> None:
    """Of 10 to 20 go 3 (0.6) and 1 (0.9), back come 5 (0.8) and, unpaired, 4 (0.7) goes to 30."""
    run = write_run(tmp_path)
    suggested, probability = np.full(12, -1), np.zeros(12, np.float32)
    suggested[[3, 1, 5, 4]] = 20, 20, 10, 30
    probability[[3, 1, 5, 4]] = 0.6, 0.9, 0.8, 0.7
    change = {"suggested_label": suggested, "suggested_probability": probability}
    dataclasses.replace(RESULT, **change).save(run / "clean" / "clean.npz")
    assert opened(run).swaps().tolist() == [[1, 5]]
    suggested[[4, 8]] = 10, 20  # now 4 comes back as well; 8 of 30 to 20 has nobody
    dataclasses.replace(RESULT, **change).save(run / "clean" / "clean.npz")
    assert opened(run).swaps().tolist() == [[1, 5], [3, 4]]
    dataclasses.replace(RESULT, suggested_label=np.full(12, -1)).save(run / "clean" / "clean.npz")
    assert opened(run).swaps().shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suggested_label": np.full(12, 11)}, "suggested_label must be of labels .* got 11"),
        ({"merge_label": np.full(12, 31)}, "merge_label must be of labels .* got 31"),
        ({"class_id": np.array([10, 20, 31])}, "class_id must be of labels .* got 31"),
    ],
)
def test_labels_of_another_set_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path)
    dataclasses.replace(RESULT, **change).save(run / "clean" / "clean.npz")
    with pytest.raises(DataError, match=message):
        opened(run)


def test_an_answer_of_version_0_1_asks_for_another_cleaning(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with np.load(run / "clean" / "clean.npz") as arrays:
        old = {name: arrays[name] for name in ("clean_probability", "kept", "suggested_label")}
    np.savez(run / "clean" / "clean.npz", **old, undecided=np.zeros(12, bool))
    with pytest.raises(DataError, match=r"lacks suggested_probability.*clean again"):
        opened(run)


def test_a_run_without_a_training_is_opened_by_what_its_cleaning_noted(tmp_path: Path) -> None:
    """As `facetrain clean DATA --backbone B` leaves it: no `train`, the data set in `clean`."""
    run, overlay = write_run(tmp_path), tmp_path / "noise" / "overlay.npz"
    (run / "train" / "manifest.json").unlink()
    fingerprint = FaceDataset.open(tmp_path / "faces", [overlay]).fingerprint
    with pytest.raises(DataError, match="must say which data set was cleaned"):
        CleanedSet.open_run(run)
    data = DataConfig(path=tmp_path / "faces", overlay=(overlay,))
    write_stage_data(run / "clean", data)
    assert CleanedSet.open_run(run).dataset.fingerprint == fingerprint
    assert cleaned_data(run) == data
    finish_cleaning(run, "another")
    with pytest.raises(DataError, match="as they are now"):
        CleanedSet.open_run(run)
    overlay.unlink()
    with pytest.raises(DataError, match="must still be there"):
        CleanedSet.open_run(run)
