"""Features `.npz`: the embeddings and labels of N images, and what else was stored with them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.files.npz_file import read_npz, write_npz

MOST_LABEL = 1 << 27  # arrays over all classes up to the largest label must fit in memory
_ROWS = 1 << 16
_NUMBERED = "numpy.unique(label, return_inverse=True)[1]"


@dataclasses.dataclass(frozen=True)
class Features:
    """Embeddings with labels, and with the truth about the labels where it is known."""

    embedding: NDArray[Any]  # (N, D) float32 or float16, every row finite and not zero
    label: NDArray[np.int64]  # (N,) from 0 up; gaps are classes without images
    is_clean: NDArray[np.bool_] | None = None  # (N,)
    extra: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)  # carried along

    def take(self, rows: NDArray[Any]) -> "Features":
        """These rows (indices or flags), also of the extra arrays that have N of them."""
        extra = {
            name: array[rows] if array.shape[:1] == self.label.shape else array
            for name, array in self.extra.items()
        }
        is_clean = None if self.is_clean is None else self.is_clean[rows]
        return Features(self.embedding[rows], self.label[rows], is_clean, extra)


def load_features(path: Path, need_is_clean: bool = False) -> Features:
    """Read a features `.npz`: `embedding` and `label`, perhaps `is_clean`, and further arrays.

    Embeddings come as they are stored, not normalised; float64 is read as float32.

    Args:
        need_is_clean: the truth about the labels must be there.

    Raises:
        DataError: no such file, not an `.npz` of plain arrays, an array missing or of another
            shape, type or value than `Features` says.
    """
    path = Path(path)
    arrays = read_npz(path, "a features .npz")
    _require(path, arrays, "embedding", "label", *(("is_clean",) if need_is_clean else ()))
    embedding, label = _checked_embedding(path, arrays.pop("embedding")), arrays.pop("label")
    is_clean = arrays.pop("is_clean", None)
    num_images = len(embedding)
    _check_column(path, "label", label, num_images, "iu", "integers")
    if is_clean is not None:
        _check_column(path, "is_clean", is_clean, num_images, "b", "booleans")
    return Features(embedding, _checked_labels(path, label), is_clean, arrays)


def load_embedding(path: Path) -> NDArray[Any]:
    """`embedding` (N, D) of an `.npz`, whatever else it holds.

    Raises:
        DataError: as `load_features`.
    """
    arrays = read_npz(Path(path), "a features .npz")
    _require(path, arrays, "embedding")
    return _checked_embedding(path, arrays["embedding"])


def _require(path: Path, arrays: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name not in arrays:
            found = ", ".join(sorted(arrays)) or "no array"
            advice = f"numpy.savez(FILE, {'=..., '.join(names)}=...) writes such a file"
            if name == "is_clean":
                advice = "`facetrain corrupt` plants noise and writes it"
            raise DataError(f"{path}: must hold {name}, but holds {found}; {advice}")


def save_features(path: Path, features: Features) -> None:
    """Write a features `.npz`, atomically."""
    arrays = {**features.extra, "embedding": features.embedding, "label": features.label}
    if features.is_clean is not None:
        arrays["is_clean"] = features.is_clean
    write_npz(path, arrays)


def row_norms(embedding: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) L2 norms, in float64; a row that is not finite has a norm that is not."""
    square = np.empty(len(embedding), np.float64)
    for start in range(0, len(embedding), _ROWS):  # a copy of all rows might not fit
        rows = np.asarray(embedding[start : start + _ROWS], np.float64)
        square[start : start + _ROWS] = np.einsum("nd,nd->n", rows, rows)
    return np.sqrt(square)


def unit_rows(embedding: NDArray[Any]) -> NDArray[np.float32]:
    """(N, D) float32 embeddings of norm 1, from rows that are finite and not zero."""
    norm = row_norms(embedding)  # (N,)
    unit_embedding = np.empty(embedding.shape, np.float32)
    for start in range(0, len(embedding), _ROWS):
        part = slice(start, start + _ROWS)
        unit_embedding[part] = embedding[part] / norm[part, None]
    return unit_embedding


def _check_column(
    path: Path, name: str, array: NDArray[Any], num_images: int, kinds: str, words: str
) -> None:
    if array.shape != (num_images,) or array.dtype.kind not in kinds:
        named = array.shape == (num_images,) and words == "integers"
        advice = f"; number them, e.g. by {_NUMBERED}" if named else ""
        raise DataError(
            f"{path}: {name} must be ({num_images},) {words}, one for each row of embedding, got "
            f"{array.shape} of {array.dtype}{advice}"
        )


def _checked_embedding(path: Path, embedding: NDArray[Any]) -> NDArray[Any]:
    if embedding.ndim != 2 or embedding.dtype.kind != "f" or 0 in embedding.shape:
        raise DataError(
            f"{path}: embedding must be (N, D) of floating point with N and D at least 1, got "
            f"{embedding.shape} of {embedding.dtype}"
        )
    if embedding.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            embedding = embedding.astype(np.float32)
    norm = row_norms(embedding)
    for what, bad in (("infinite or NaN", ~np.isfinite(norm)), ("zero", norm == 0)):
        if bad.any():
            raise DataError(
                f"{path}: no embedding may be {what}, but {np.count_nonzero(bad)} of {len(norm)} "
                f"are, the first in row {int(bad.argmax())}; embed those images again or leave "
                "them out"
            )
    return embedding


def _checked_labels(path: Path, label: NDArray[Any]) -> NDArray[np.int64]:
    if (least := label.min()) < 0:
        row = int((label < 0).argmax())
        raise DataError(
            f"{path}: label must be from 0 up, got {label[row]} in row {row} (least: {least}); "
            "leave out images without a label"
        )
    if (largest := label.max()) > MOST_LABEL:
        raise DataError(
            f"{path}: label must be at most {MOST_LABEL}, got {largest}; re-index the classes, "
            f"e.g. by {_NUMBERED}"
        )
    return label.astype(np.int64)
