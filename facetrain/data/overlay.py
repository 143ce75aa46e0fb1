"""Label overlays: what cleaning and review say about the images of a data set, beside its shards.

The shards are never rewritten. An overlay is an `.npz` of arrays over ALL images of the data set
(its rows, in shard and key order); several compose in order, e.g. the cleaner's, then a person's.
Suggestions, duplicates, merges and overlaps are advice: they stand in the file, and nothing here
acts on them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.run_folder import OVERLAY_FILE
from facetrain.data.files.npz_file import ArrayHeader, check_column, read_npz, write_npz

_MOST_TEXT = 1 << 20  # bytes: 256 names and a fingerprint take less


def overlay_file(path: Path | str) -> Path:
    """The overlay that a path names: a file, or a folder's `overlay.npz`."""
    path = Path(path)
    return path / OVERLAY_FILE if path.is_dir() else path


@dataclasses.dataclass(frozen=True)
class LabelOverlay:
    """One opinion about the labels of a data set of N rows."""

    label: NDArray[np.int64]  # (N,) class ids of the data set, or new ones; -1 says nothing
    kept: NDArray[np.bool_]  # (N,)
    clean_probability: NDArray[np.float32]  # (N,) in [0, 1]; NaN where not judged
    suggested_label: NDArray[np.int64]  # (N,) -1 where there is none
    source: NDArray[np.uint8]  # (N,) index into source_names: who decided
    source_names: tuple[str, ...]  # name 0 is "": nobody touched the row
    dataset_fingerprint: str  # FaceDataset.base_fingerprint; "" fits any data set of N rows
    duplicate_of: NDArray[np.int64]  # (N,) row of the image this is a near copy of, or -1
    merge_label: NDArray[np.int64]  # (N,) label of the class that seems the same person, or -1
    overlap: NDArray[np.bool_]  # (N,) the identity also occurs in an evaluation set

    @classmethod
    def make(
        cls,
        label: NDArray[Any],
        kept: NDArray[np.bool_],
        *,
        clean_probability: NDArray[Any] | None = None,
        suggested_label: NDArray[Any] | None = None,
        source: NDArray[Any] | None = None,
        source_names: tuple[str, ...] = ("",),
        dataset_fingerprint: str = "",
        duplicate_of: NDArray[Any] | None = None,
        merge_label: NDArray[Any] | None = None,
        overlap: NDArray[np.bool_] | None = None,
    ) -> "LabelOverlay":
        """An overlay whose absent columns hold their defaults: NaN, -1, nobody, False."""

        def column(given: NDArray[Any] | None, absent: float, dtype: type) -> NDArray[Any]:
            return np.full(len(label), absent, dtype) if given is None else given.astype(dtype)

        return cls(
            label=label.astype(np.int64),
            kept=kept.astype(np.bool_),
            clean_probability=column(clean_probability, np.nan, np.float32),
            suggested_label=column(suggested_label, -1, np.int64),
            source=column(source, 0, np.uint8),
            source_names=source_names,
            dataset_fingerprint=dataset_fingerprint,
            duplicate_of=column(duplicate_of, -1, np.int64),
            merge_label=column(merge_label, -1, np.int64),
            overlap=column(overlap, False, np.bool_),
        )

    def save(self, path: Path | str) -> None:
        """Write the `.npz`, atomically."""
        write_npz(Path(path), vars(self), compressed=True)

    @classmethod
    def load(cls, path: Path | str, num_rows: int | None = None) -> "LabelOverlay":
        """Read an `.npz`, or a folder's `overlay.npz`; only `label` and `kept` must be there.

        Args:
            path: the file or folder.
            num_rows: of the data set it must be of, where that is known.

        Raises:
            DataError: not an `.npz`, a missing or unknown array, a wrong shape, type or value, or
                another number of rows.
        """
        path = overlay_file(path)
        check = None if num_rows is None else functools.partial(_check_sizes, path, num_rows)
        arrays = read_npz(path, "an overlay .npz", check)
        known = [field.name for field in dataclasses.fields(cls)]
        if set(arrays) - set(known) or not {"label", "kept"} <= set(arrays):
            raise DataError(
                f"{path}: an overlay holds label and kept, and may hold {', '.join(known[2:])}; "
                f"got {', '.join(sorted(arrays))}"
            )
        num_rows = len(np.atleast_1d(arrays["label"]))

        def column(name: str, kind: str, valid: Callable[[NDArray[Any]], Any]) -> None:
            array = arrays.get(name)
            if array is None:
                return
            check_column(path, name, array, num_rows, kind)
            wrong = np.flatnonzero(~valid(array))
            if len(wrong):
                raise DataError(f"{path}: {name}[{wrong[0]}] is {array[wrong[0]]}, out of range")

        fits_int64 = 1 << 62
        column("kept", "b", lambda kept: np.ones(num_rows, np.bool_))
        kept = arrays["kept"]
        column("label", "iu", lambda label: (label < fits_int64) & ((label >= -1) | ~kept))
        column("clean_probability", "f", lambda p: np.isnan(p) | ((p >= 0) & (p <= 1)))
        for name in ("suggested_label", "merge_label"):
            column(name, "iu", lambda label: (label >= -1) & (label < fits_int64))
        rows = np.arange(num_rows)
        column("duplicate_of", "iu", lambda row: (row >= -1) & (row < num_rows) & (row != rows))
        column("overlap", "b", lambda overlap: np.ones(num_rows, np.bool_))
        if "source" in arrays and arrays["source"].dtype.kind == "U":
            found, source = np.unique(np.append("", arrays["source"]), return_inverse=True)
            arrays.update(source_names=found, source=source[1:])
        names = _text(path, arrays.pop("source_names", np.array([""])), ndim=1)
        if names[:1] != [""] or len(names) > 256:
            raise DataError(f"{path}: source_names must begin with '' and be at most 256")
        column("source", "iu", lambda source: (source >= 0) & (source < len(names)))
        fingerprint = _text(path, arrays.pop("dataset_fingerprint", np.array("")), ndim=0)[0]
        return cls.make(**arrays, source_names=tuple(names), dataset_fingerprint=fingerprint)

    def apply(
        self,
        label: NDArray[np.int64],
        kept: NDArray[np.bool_],
        base_label: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Labels and kept flags after this overlay is applied on top of earlier ones.

        It decides the rows it touches: those with a source, those it drops, and those it labels
        otherwise than the shards do; never those it keeps under label -1. All other rows stay as
        the earlier overlays left them; so taking a dropped row back needs a source.
        `suggested_label`, `duplicate_of`, `merge_label` and `overlap` change nothing.

        Args:
            label: (N,) after the earlier overlays.
            kept: (N,) after the earlier overlays.
            base_label: (N,) as the shards have them.
        """
        touched = (self.source > 0) | ~self.kept | (self.label != base_label)
        touched &= ~self.kept | (self.label >= 0)
        return np.where(touched, self.label, label), np.where(touched, self.kept, kept)


def _check_sizes(path: Path, num_rows: int, headers: Mapping[str, ArrayHeader]) -> None:
    """Refuse what is not of a data set of so many rows, before it is unpacked."""
    for name, one in sorted(headers.items(), key=lambda pair: pair[0] != "label"):
        if name in ("source_names", "dataset_fingerprint"):
            if math.prod(one.shape) * one.dtype.itemsize > _MOST_TEXT:
                raise DataError(f"{path}: {name} must be short text, got {one.shape} {one.dtype}")
        elif one.shape != (num_rows,):
            came = f"{one.shape[0]} rows" if len(one.shape) == 1 else f"{name} of {one.shape}"
            raise DataError(
                f"{path}: must cover the {num_rows} images of the data set, but has {came}; it "
                "belongs to another one"
            )


def _text(path: Path, array: NDArray[Any], ndim: int) -> list[str]:
    if array.dtype.kind != "U" or array.ndim != ndim:
        raise DataError(f"{path}: must name its sources and data set in text, got {array.dtype}")
    return [str(name) for name in np.atleast_1d(array)]
