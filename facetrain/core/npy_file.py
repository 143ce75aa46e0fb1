"""An array in an `.npy` file, whoever wrote it and whatever happened to it since."""

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import DataError
from facetrain.core.text import printable

DType = type[np.generic]


def read_npy(
    path: Path,
    content: str,
    shape: Sequence[int | None],
    dtype: DType | tuple[DType, ...],
    *,
    advice: str = "write it again",
) -> NDArray[Any]:
    """The array in `path` as a read-only memory map; nothing in the file is executed.

    Args:
        content: what it should hold, for the message.
        shape: its length along each axis; None where any will do.
        dtype: its type, or the types that will do.
        advice: what to do about a file that is not so.

    Raises:
        DataError: no such file, none of NumPy's, a part of one, or another shape or type.
    """
    must = f"{printable(path)}: must be {content}"
    if not path.is_file():
        raise DataError(f"{must}, but there is no such file; {advice}")
    try:
        array = _mapped(path)
    except Exception as error:  # a damaged header is parsed as Python and may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{must}, but is no whole .npy ({reason:.200}); {advice}") from None
    types = [np.dtype(one) for one in (dtype if isinstance(dtype, tuple) else [dtype])]
    fits = len(array.shape) == len(shape) and all(
        wanted is None or wanted == came for wanted, came in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype not in types:
        axes = ", ".join("any" if one is None else str(one) for one in shape)
        names = " or ".join(str(one) for one in types)
        raise DataError(
            f"{must}, {names} of shape ({axes}), but is {array.dtype} of shape {array.shape}; "
            f"{advice}"
        )
    return array


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array, atomically.

    Through Python's own writing: into a file NumPy writes by C, and of a disk that is full when its
    last 4 KiB are flushed it hears nothing.

    Raises:
        OutputError: it cannot be written whole.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(types.SimpleNamespace(write=file.write), array)


def _mapped(path: Path) -> NDArray[Any]:
    with open(path, "rb") as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("it does not begin as one")
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
