"""Rows of an embedding of any length and float type, read in parts as unit rows."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.errors import DataError
from facetrain.dist.collectives import gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.graph.knn_keys import MAX_ROWS

_READ_ROWS = 1 << 16
_CPU_BLOCK_BYTES = 1 << 29
"""Of base rows held at once: a tenth of 5M x 512 in float32, re-read once per block of queries."""


class UnitRows:
    """Unit rows of `embedding` (N, D), normalised as they are read.

    Rows are float32, and float16 where a float16 embedding is read to a CUDA device: there products
    are exact and summed in float32, but a row's elements are rounded to 11 bits once more, which
    moves a similarity by up to about 1e-3.
    """

    def __init__(self, embedding: NDArray[Any], device: torch.device) -> None:
        self.embedding, self.device = embedding, device
        half = device.type == "cuda" and embedding.dtype == np.float16
        self.dtype = torch.float16 if half else torch.float32
        self._block: tuple[int, Tensor] | None = None
        self._block_rows: int | None = None

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def size(self) -> int:
        """D."""
        size: int = self.embedding.shape[1]
        return size

    def take(self, row: NDArray[np.int64]) -> Tensor:
        """Unit rows (B, D) of the positions `row` (B,)."""
        return self._unit(self.embedding[row])

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, unit rows) of all blocks in order; a single block stays in memory."""
        if self._block is not None:
            yield self._block
            return
        if self._block_rows is None:
            # On CUDA a quarter of what is free: two blocks may be alive, and the tile is large.
            cuda = self.device.type == "cuda"
            budget = torch.cuda.mem_get_info(self.device)[0] // 4 if cuda else _CPU_BLOCK_BYTES
            self._block_rows = max(1, min(len(self), budget // (self.size * self.dtype.itemsize)))
        step = self._block_rows
        for first in range(0, len(self), step):
            block = torch.empty(
                (min(step, len(self) - first), self.size), dtype=self.dtype, device=self.device
            )
            for start in range(0, len(block), _READ_ROWS):
                stop = min(start + _READ_ROWS, len(block))
                block[start:stop] = self._unit(self.embedding[first + start : first + stop])
            if len(block) == len(self):
                self._block = first, block
            yield first, block

    def _unit(self, rows: NDArray[Any]) -> Tensor:
        copied = torch.from_numpy(np.array(rows)).to(self.device)
        unit = F.normalize(copied.float(), dim=1, eps=0.0)
        return unit.nan_to_num_(nan=0.0).to(self.dtype)  # a zero row stays zero

    def digest(self) -> str:
        """SHA-256 (hex) of shape, type and up to 1024 rows spread over the embedding."""
        spread = np.unique(np.linspace(0, len(self) - 1, 1024).astype(np.int64))
        digest = hashlib.sha256(f"{self.embedding.shape} {self.embedding.dtype}".encode())
        digest.update(np.ascontiguousarray(self.embedding[spread]).tobytes())
        return digest.hexdigest()


def check_rows(embedding: NDArray[Any], mesh: Mesh, *, allow_zero: bool = False) -> None:
    """Read everything once, each rank its share, and return if every row has a direction.

    Args:
        allow_zero: zero rows are images known to be missing.

    Raises:
        DataError: (on every rank) not (N, D) of float16 or float32, no or too many rows, or rows
            that are zero or not finite.
    """
    shape, dtype = embedding.shape, embedding.dtype
    if dtype not in (np.float16, np.float32) or len(shape) != 2 or 0 in shape:
        raise DataError(
            "the embedding must be (N, D) of float16 or float32 with at least one row, got "
            f"{shape} {dtype}; convert it with embedding.astype(np.float32)"
        )
    if shape[0] > MAX_ROWS:
        raise DataError(f"the embedding must have at most {MAX_ROWS} rows, got {shape[0]}")
    first_bad, num_bad = -1, 0
    begin, end = shard_range(shape[0], mesh.rank, mesh.world_size)
    for start in range(begin, end, _READ_ROWS):
        rows = np.asarray(embedding[start : min(start + _READ_ROWS, end)], np.float32)
        square = np.einsum("nd,nd->n", rows, rows)  # inf where float32 cannot hold it: refused too
        bad = np.flatnonzero(~(np.isfinite(square) & ((square > 0) | allow_zero)))
        if len(bad):
            first_bad = first_bad if num_bad else start + int(bad[0])
            num_bad += len(bad)
    found = [(first, count) for first, count in gather_objects((first_bad, num_bad), mesh) if count]
    if found:
        raise DataError(
            "no embedding may be zero, infinite or NaN, but "
            f"{sum(count for _, count in found)} of {shape[0]} are, the first in row "
            f"{found[0][0]}; drop these rows (images that did not decode are zero rows; "
            "`skipped_rows` of the embed manifest lists them), or embed again"
        )
