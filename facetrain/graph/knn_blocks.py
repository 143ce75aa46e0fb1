"""The files of a kNN graph while ranks write blocks of its rows, and which blocks are done."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS, SIMILARITY = "neighbours.npy", "similarity.npy"


class Blocks:
    """Two (N, K) arrays cut into blocks of rows.

    Blocks are written as bytes, not through a memory map, so that other machines see them.
    """

    def __init__(self, out_dir: Path, num_rows: int, num_neighbours: int, dtype: str, size: int):
        """`dtype` is the similarity's; `size` counts the rows of a block."""
        self._paths = (out_dir / NEIGHBOURS, out_dir / SIMILARITY)
        self._shape = (num_rows, num_neighbours)
        index_dtype = np.int32 if num_rows < 2**31 else np.int64
        self._dtypes = (np.dtype(index_dtype), np.dtype(dtype))
        self._size = size
        self.folder = out_dir / ".progress"

    def create(self) -> None:
        """Start over."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for path, dtype in zip(self._paths, self._dtypes, strict=True):
            np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=self._shape)

    def rows(self, block: int) -> NDArray[np.int64]:
        """Row numbers of a block."""
        return np.arange(block * self._size, min((block + 1) * self._size, self._shape[0]))

    def remaining(self) -> list[int]:
        """Numbers of the blocks that are not done, in order."""
        count = -(-self._shape[0] // self._size)
        return [block for block in range(count) if not (self.folder / f"done-{block}").exists()]

    def write(self, block: int, *found: NDArray[Any]) -> None:
        """Write neighbours and similarity of a block's rows; then note the block as done."""
        for path, dtype, array in zip(self._paths, self._dtypes, found, strict=True):
            content = np.ascontiguousarray(array, dtype).tobytes()
            row_bytes = self._shape[1] * dtype.itemsize
            with open(path, "r+b") as file:
                header = os.fstat(file.fileno()).st_size - self._shape[0] * row_bytes
                file.seek(header + block * self._size * row_bytes)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        (self.folder / f"done-{block}").touch()
