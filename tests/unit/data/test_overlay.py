"""Overlay files and their composition."""

from pathlib import Path

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.overlay import LabelOverlay

LABEL = np.array([0, 1, 2])
KEPT = np.array([True, False, True])


def test_all_columns_survive_the_file(tmp_path: Path) -> None:
    overlay = LabelOverlay.make(
        LABEL,
        KEPT,
        clean_probability=np.array([0.25, 1.0, np.nan]),
        suggested_label=np.array([-1, 2, -1]),
        source=np.array([0, 1, 2]),
        source_names=("", "cleaner", "review"),
        dataset_fingerprint="abc",
        duplicate_of=np.array([-1, 0, -1]),
        merge_label=np.array([5, -1, -1]),
        overlap=np.array([False, False, True]),
    )
    overlay.save(tmp_path / "o.npz")
    again = LabelOverlay.load(tmp_path / "o.npz")
    columns = [name for name, value in vars(overlay).items() if isinstance(value, np.ndarray)]
    assert len(columns) == 8
    for name in columns:
        wanted, got = getattr(overlay, name), getattr(again, name)
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    assert again.source_names == ("", "cleaner", "review")
    assert again.dataset_fingerprint == "abc"


def test_label_and_kept_are_enough(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", label=LABEL.astype(np.int32), kept=KEPT)
    overlay = LabelOverlay.load(tmp_path / "o.npz")
    assert overlay.label.dtype == np.int64
    assert np.isnan(overlay.clean_probability).all()
    assert overlay.suggested_label.tolist() == [-1, -1, -1]
    assert overlay.source.tolist() == [0, 0, 0]
    assert overlay.dataset_fingerprint == ""
    assert overlay.duplicate_of.tolist() == overlay.merge_label.tolist() == [-1, -1, -1]
    assert overlay.overlap.tolist() == [False, False, False]
    assert overlay.overlap.dtype == np.bool_


def test_a_folder_stands_for_its_overlay(tmp_path: Path) -> None:
    LabelOverlay.make(LABEL, KEPT, merge_label=LABEL + 7).save(tmp_path / "overlay.npz")
    assert LabelOverlay.load(tmp_path).merge_label.tolist() == [7, 8, 9]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty/overlay\.npz: .* there is no such file"):
        LabelOverlay.load(tmp_path / "empty")


def test_sources_may_be_text(tmp_path: Path) -> None:
    source = np.array(["review", "", "cleaner"])
    np.savez(tmp_path / "o.npz", label=LABEL, kept=KEPT, source=source)
    overlay = LabelOverlay.load(tmp_path / "o.npz")
    assert overlay.source_names == ("", "cleaner", "review")
    assert overlay.source.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": None}, "an overlay holds label and kept"),
        ({"extra": LABEL}, "an overlay holds label and kept"),
        ({"kept": LABEL}, r"kept must be \(3,\) of kind 'b', got \(3,\) of int64"),
        ({"kept": KEPT[:2]}, r"kept must be \(3,\) .* got \(2,\)"),
        ({"label": LABEL.astype(float)}, "label must be .* float64"),
        ({"label": np.array([0, 1, -5])}, r"label\[2\] is -5, out of range"),
        ({"label": LABEL[:, None]}, r"label must be \(3,\)|kept must be"),
        ({"clean_probability": np.array([0.5, 1.5, 0])}, r"clean_probability\[1\] is 1.5"),
        ({"suggested_label": np.array([-2, 0, 0])}, r"suggested_label\[0\] is -2"),
        ({"merge_label": np.array([-2, 0, 0])}, r"merge_label\[0\] is -2"),
        ({"merge_label": LABEL.astype(float)}, "merge_label must be .* float64"),
        ({"duplicate_of": np.array([-1, -1, 3])}, r"duplicate_of\[2\] is 3"),
        ({"duplicate_of": np.array([-1, 1, -1])}, r"duplicate_of\[1\] is 1"),  # of itself
        ({"duplicate_of": LABEL[:2]}, r"duplicate_of must be \(3,\) .* got \(2,\)"),
        ({"overlap": LABEL}, r"overlap must be \(3,\) of kind 'b'"),
        ({"source": np.array([0, 3, 0])}, r"source\[1\] is 3"),
        ({"source": np.array(["a", "b"])}, r"source must be \(3,\)"),
        ({"source_names": np.array(["cleaner"])}, "must begin with ''"),
        ({"source_names": np.array([1])}, "in text"),
        ({"label": np.array([0, None, 2], object)}, "plain arrays"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, change: dict, message: str) -> None:
    arrays = {"label": LABEL, "kept": KEPT, **change}
    np.savez(tmp_path / "o.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(DataError, match=message):
        LabelOverlay.load(tmp_path / "o.npz")


def test_a_dropped_row_may_have_any_label(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", label=np.array([0, -1, 2]), kept=KEPT)
    assert LabelOverlay.load(tmp_path / "o.npz").label.tolist() == [0, -1, 2]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        LabelOverlay.load(tmp_path / "o.npz")
    for name, data in (("empty", b""), ("text", b"label"), ("zip", b"PK\x03\x04 broken")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="plain arrays"):
            LabelOverlay.load(tmp_path / name)
    np.save(tmp_path / "array.npy", LABEL)
    with pytest.raises(DataError, match="plain arrays"):
        LabelOverlay.load(tmp_path / "array.npy")


def test_later_overlays_decide_only_what_they_touch() -> None:
    """By hand over rows 0..4, whose shards say classes 0, 1, 2, 3, 4."""
    base = np.arange(5)
    everything = np.ones(5, np.bool_)
    # The cleaner calls row 1 a 7, drops rows 2 and 3.
    cleaner = LabelOverlay.make(
        np.array([0, 7, 2, 3, 4]), np.array([True, True, False, False, True])
    )
    # A person drops row 0, takes row 2 back, and says nothing of the others.
    review = LabelOverlay.make(
        base,
        np.array([False, True, True, True, True]),
        source=np.array([0, 0, 1, 0, 0]),
        source_names=("", "review"),
    )
    label, kept = cleaner.apply(base, everything, base)
    assert label.tolist() == [0, 7, 2, 3, 4]
    assert kept.tolist() == [True, True, False, False, True]
    label, kept = review.apply(label, kept, base)
    assert label.tolist() == [0, 7, 2, 3, 4]
    assert kept.tolist() == [False, True, True, False, True]


def test_a_kept_row_without_a_label_says_nothing(tmp_path: Path) -> None:
    """Whatever stands in its other columns: an overlay need not know the shards' labels."""
    np.savez(
        tmp_path / "o.npz",
        label=np.array([-1, -1, -1, 4]),
        kept=np.array([True, True, False, True]),
        source=np.array([0, 1, 0, 0]),
        source_names=np.array(["", "x"]),
    )
    overlay = LabelOverlay.load(tmp_path / "o.npz")
    base, label = np.arange(4), np.array([5, 6, 7, 8])
    after, kept = overlay.apply(label, np.array([True, False, True, False]), base)
    assert after.tolist() == [5, 6, -1, 4]
    assert kept.tolist() == [True, False, False, True]


def test_advice_changes_nothing() -> None:
    """The same overlay with and without every advisory column applies alike."""
    everything = np.ones(3, np.bool_)
    advice = LabelOverlay.make(
        LABEL,
        everything,
        suggested_label=np.array([2, 2, 1]),
        duplicate_of=np.array([-1, 0, 0]),
        merge_label=np.array([1, 0, 0]),
        overlap=everything,
    )
    label, kept = advice.apply(LABEL, everything, LABEL)
    assert label.tolist() == LABEL.tolist()
    assert kept.all()
