"""Arrays of an `.npz` that somebody else may have written."""

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import DataError

_SMALL = 1 << 30  # bytes that may be unpacked from any file
_MOST_EXPANSION = 64  # of larger ones: embeddings shrink by less than 2, sparse ones by 10


class ArrayHeader(NamedTuple):
    """What an array is before it is unpacked."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


Check = Callable[[Mapping[str, ArrayHeader]], None]


def read_npz(path: Path, content: str, check: Check | None = None) -> dict[str, NDArray[Any]]:
    """Every array by name; nothing in the file is executed.

    A few megabytes can unpack to gigabytes, so sizes are looked at first.

    Args:
        content: what it should hold, for the message.
        check: is shown every array's shape and type before any is unpacked, and raises where they
            are not wanted; then they may be of any size.

    Raises:
        DataError: no such file, not an `.npz` of plain arrays, or one that unpacks to more than
            1 GiB and 64 times the file.
    """
    if not path.is_file():
        raise DataError(f"{path}: must be {content}, but there is no such file")
    must = f"{path}: must be {content}, whole and of plain arrays"
    if not zipfile.is_zipfile(path):  # NumPy would go on to ask for trust in a pickle
        raise DataError(f"{must}, but is no .npz archive; copy or write it again")
    where = ""
    try:
        headers = {}
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                where = f"array {name}: "
                if name in headers:  # NumPy would take one of them without a word
                    raise ValueError("must be in the file once")
                with archive.open(member) as file:
                    headers[name] = _header(file, member.file_size)
        where = ""
        if check is not None:
            check(headers)
        elif unpacked > max(_SMALL, _MOST_EXPANSION * path.stat().st_size):
            raise ValueError(
                f"it unpacks to {unpacked / 2**30:.1f} GiB, over {_MOST_EXPANSION} times its size, "
                "as no real one does"
            )
        with np.load(path, allow_pickle=False) as arrays:
            found = {}
            for name in arrays.files:
                where = f"array {name}: "
                # Of one order: sums of float32 depend on it in their last bit.
                found[name] = np.asarray(arrays[name], order="C")
            return found
    except DataError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise DataError(f"{must}; {where}{error}") from None


def check_column(path: Path, name: str, column: NDArray[Any], length: int, kinds: str) -> None:
    """Return if an array is a column of that length, of one of NumPy's kinds (`b`, `f`, `iu`).

    Raises:
        DataError: it is not; names `path` and `name`.
    """
    if column.shape != (length,) or column.dtype.kind not in kinds:
        raise DataError(
            f"{path}: {name} must be ({length},) of kind {kinds!r}, got {column.shape} of "
            f"{column.dtype}"
        )


def write_npz(path: Path, arrays: Mapping[str, ArrayLike], *, compressed: bool = False) -> None:
    """Write arrays by name, atomically."""
    save = np.savez_compressed if compressed else np.savez
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        save(file, **arrays)  # type: ignore[arg-type]  # none may be named allow_pickle


def _header(file: IO[bytes], size: int) -> ArrayHeader:
    """Shape and type of a member of `size` bytes, which it must fill."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    stored = size - file.tell()
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != stored:
        raise ValueError(f"its {stored} bytes do not hold {shape} of {dtype}")
    return ArrayHeader(shape, dtype)
