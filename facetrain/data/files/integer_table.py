"""Text files of whole numbers, a few columns and millions of lines, read in blocks at any byte."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError

_BLOCK_BYTES = 1 << 18  # some 17 thousand lines of IJB-C's pair list


def _parse(lines: list[str], num_columns: int) -> NDArray[np.int64] | None:
    """(len(lines), num_columns); None when a line is anything else. Blank lines are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a number with a point is only warned about
        try:
            table = np.loadtxt(lines, np.int64, comments=None, ndmin=2)
        except (ValueError, Warning):
            return None
    return table if table.shape[1] == num_columns and (table >= 0).all() else None


def _refuse(path: Path, block: bytes, first_byte: int, num_columns: int, columns: str) -> DataError:
    """What to say about a block that does not parse: its first bad line."""
    for line in block.split(b"\n"):
        if line.strip() and _parse([line.decode("latin1")], num_columns) is None:
            break
        first_byte += len(line) + 1
    with open(path, "rb") as file:
        number = file.read(first_byte).count(b"\n") + 1
    text = line.decode("utf-8", "replace")
    return DataError(
        f"{path}: line {number} must be {columns!r} in whole numbers; got {text!r:.80}"
    )


def read_integers(
    path: Path, columns: str, start: int = 0, stop: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield (lines, num_columns) blocks of the lines that begin in bytes `start` to `stop`.

    Consecutive ranges of bytes give each line exactly once, in order.

    Args:
        path: whole numbers, not negative, between blanks; no header.
        columns: what a line holds, one word a column, e.g. "template template same".
        start: a byte of the file.
        stop: a byte of the file; default: its end.

    Raises:
        DataError: no such file, or a line that is something else.
    """
    num_columns = len(columns.split())
    if not path.is_file():
        raise DataError(f"{path}: must be a text file of lines {columns!r}, but there is none")
    size = path.stat().st_size
    stop = size if stop is None else min(stop, size)
    with open(path, "rb") as file:
        if start > 0:
            file.seek(start - 1)
            file.readline()  # the rest of a line that began before
        while (position := file.tell()) < stop:
            block = file.read(min(_BLOCK_BYTES, stop - position))
            if not block.endswith(b"\n"):
                block += file.readline()
            if not block.strip():
                continue
            table = _parse(block.decode("latin1").split("\n"), num_columns)
            if table is None:
                raise _refuse(path, block, position, num_columns, columns)
            yield table
