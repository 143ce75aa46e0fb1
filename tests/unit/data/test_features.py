"""Features files: what is read, what is carried along, what is refused and how."""

from pathlib import Path

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data import features as features_file
from facetrain.data.features import Features, load_features, row_norms, save_features, unit_rows

EMBEDDING = np.array([[3.0, 4.0], [0.0, 0.5], [-1.0, 0.0]], np.float32)
LABEL = np.array([7, 0, 7], np.int32)
PATHS = np.array(["a", "b", "c"])


def write(folder: Path, **change: np.ndarray | None) -> Path:
    arrays = {"embedding": EMBEDDING, "label": LABEL, **change}
    path = folder / "f.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_file_comes_back_as_it_is(tmp_path: Path, dtype: type) -> None:
    names = np.array(["ann", "bob"])
    extra = {"path": PATHS, "names": names, "clean_probability": np.zeros(3)}
    is_clean = np.array([True, False, True])
    wanted = Features(EMBEDDING.astype(dtype), LABEL.astype(np.int64), is_clean, extra)
    save_features(tmp_path / "deep" / "f.npz", wanted)
    found = load_features(tmp_path / "deep" / "f.npz", need_is_clean=True)
    assert found.embedding.dtype == dtype
    assert found.label.dtype == np.int64
    for name in ("embedding", "label", "is_clean"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))
    assert set(found.extra) == set(extra)
    assert all(np.array_equal(found.extra[name], extra[name]) for name in extra)
    # Rows are taken from what has a row an image; the names of the identities stay.
    part = found.take(np.array([True, False, True]))
    assert part.extra["path"].tolist() == ["a", "c"]
    assert part.extra["names"].tolist() == ["ann", "bob"]
    assert part.is_clean.tolist() == [True, True]
    assert part.label.tolist() == [7, 7]


def test_double_precision_is_read_as_single(tmp_path: Path) -> None:
    found = load_features(write(tmp_path, embedding=EMBEDDING.astype(np.float64)))
    assert found.embedding.dtype == np.float32
    assert found.is_clean is None
    with pytest.raises(DataError, match="infinite or NaN, but 1 of 3 are, the first in row 1"):
        load_features(write(tmp_path, embedding=np.array([[1.0, 0], [1e300, 0], [1, 1]])))


def test_unit_rows_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_file, "_ROWS", 2)  # chunks that do not divide the rows
    assert row_norms(EMBEDDING).tolist() == [5.0, 0.5, 1.0]
    for dtype in (np.float16, np.float32):
        unit = unit_rows(EMBEDDING.astype(dtype))
        assert unit.dtype == np.float32
        np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 1], [-1, 0]], atol=1e-7)
    # Squares that float16 and float32 cannot hold.
    assert unit_rows(np.array([[6e4, 0]], np.float16)).tolist() == [[1.0, 0.0]]
    assert unit_rows(np.array([[0, 1e-30]], np.float32)).tolist() == [[0.0, 1.0]]


NAN = EMBEDDING.copy()
NAN[1:, 0] = np.nan, np.inf
ZERO = EMBEDDING * np.array([[1], [0], [1]], np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": None}, "must hold embedding, but holds label"),
        ({"label": None}, "must hold label, but holds embedding; numpy.savez"),
        ({"label": np.array(["ann", "bob", "ann"])}, "got .* of <U3; number them, .*unique"),
        ({"label": np.array([7.0, 0, 7])}, "got .* of float64; number them"),
        ({"embedding": NAN}, "may be infinite or NaN, but 2 of 3 are, the first in row 1"),
        ({"embedding": ZERO}, "may be zero, but 1 of 3 are, the first in row 1"),
        ({"embedding": EMBEDDING[0]}, r"embedding must be \(N, D\).*got \(2,\)"),
        ({"embedding": EMBEDDING[:0], "label": LABEL[:0]}, r"at least 1, got \(0, 2\)"),
        ({"embedding": np.ones((3, 2), int)}, "of floating point .* int64"),
        ({"label": LABEL[:2]}, r"label must be \(3,\) integers.*got \(2,\)"),
        ({"label": LABEL.astype(float)}, "integers.*float64"),
        ({"label": np.array([1, -3, 0])}, "label must be from 0 up, got -3 in row 1"),
        ({"label": np.array([0, 1, 2**27 + 1])}, "re-index the classes"),
        ({"label": np.array([0, 1, 2**64 - 1], np.uint64)}, "re-index the classes"),
        ({"is_clean": np.ones(2, bool)}, r"is_clean must be \(3,\) booleans"),
        ({"is_clean": np.ones(3)}, "is_clean must be .* float64"),
        ({"path": np.array([None, "b", "c"], object)}, "array path: Object arrays"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_features(write(tmp_path, **change))
    assert "f.npz" in str(caught.value)


def test_the_truth_may_be_demanded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold is_clean, .* `facetrain corrupt`"):
        load_features(write(tmp_path), need_is_clean=True)


def test_label_gaps_and_the_largest_label_are_fine(tmp_path: Path) -> None:
    label = np.array([0, 2**27, 5], np.uint32)
    assert load_features(write(tmp_path, label=label)).label.tolist() == label.tolist()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        load_features(tmp_path / "none.npz")
    np.save(tmp_path / "array.npy", LABEL)
    whole = write(tmp_path).read_bytes()
    for name, data in (
        ("array.npz", (tmp_path / "array.npy").read_bytes()),
        ("cut.npz", whole[: len(whole) // 2]),
        ("text.npz", b"label"),
        ("empty.npz", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="plain arrays, but is no"):
            load_features(tmp_path / name)
