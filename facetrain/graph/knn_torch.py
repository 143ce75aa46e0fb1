"""Exact nearest neighbours by tiled matrix products, on any device torch has.

A tile of similarities is read once, as maxima of small groups of base rows: only groups with a
maximum above the query's K-th best so far are looked into. What is above joins a list, and lists
are merged once they hold half as much again as is kept. So beside the product itself a tile costs
little more than one reading, however large K is.

Products of float16 rows are written as float16 too: a tile is bound by the memory it is written to
and read from. They only nominate; what they nominate is computed again in float32.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.graph.knn_keys import NOTHING, below, pack, unpack
from facetrain.graph.knn_rows import UnitRows


@dataclass(frozen=True)
class Tiles:
    """How the work is cut."""

    num_queries: int
    num_base: int
    group: int


CPU_TILES = Tiles(256, 8192, 8)
"""A tile of 8 MiB stays in the last-level cache; measured best of nine on one core."""
CUDA_TILES = Tiles(8192, 1 << 17, 64)
"""A tile of 2 GiB (float16) takes milliseconds: two waits for the host hardly count."""
_HALF_SLACK = 2.0**-9
"""Of a float16 similarity: four times its rounding below 1, for a product may round its parts."""
_PAIRS_AT_ONCE = 1 << 18


def _dots(queries: Tensor, base: Tensor, which: Tensor, row: Tensor) -> Tensor:
    """Products (P,) float32 of rows of `queries` and of `base`, pair by pair.

    Summed in halves, in an order that depends on D alone: copies of a row tie to the last bit,
    wherever they come.
    """
    parts = []
    for at in torch.split(torch.arange(len(which), device=which.device), _PAIRS_AT_ONCE):
        product = queries[which[at]].float().mul_(base[row[at]])  # (p, D)
        while (width := product.shape[1]) > 1:
            product[:, : width // 2] += product[:, (width + 1) // 2 :]
            product = product[:, : (width + 1) // 2]
        parts.append(product[:, 0])
    return torch.cat(parts) if parts else queries.new_empty(0, dtype=torch.float32)


class _Nearest:
    """The K nearest of the base rows that B queries have seen, in increasing order, so far."""

    def __init__(self, query: Tensor, unit: Tensor, num_neighbours: int) -> None:
        """`query` (B,): each query's own row, which is not its neighbour; `unit` (B, D)."""
        size = len(query)
        self._query, self._unit = query, unit
        self._slack = 0.0 if unit.dtype == torch.float32 else _HALF_SLACK
        self._best = query.new_full((size, num_neighbours), NOTHING)  # (B, K)
        self._above = torch.full((size,), -torch.inf, device=query.device)  # (B,)
        # Keys not merged yet: of which query, at which place of its list.
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._num_waiting = torch.zeros_like(query)  # (B,)
        self._total_waiting = 0

    def add(self, base: Tensor, similarity: Tensor, first: int, group: int) -> None:
        """See unit rows `base` (T', D), which are rows `first` and on.

        `similarity` (T, B) of type and in the order of `base`, T a multiple of `group`, -inf past
        the end of `base`.
        """
        size = len(self._query)
        grouped = similarity.view(-1, group, size)  # (T / group, group, B)
        best = grouped.amax(1).float()  # (T / group, B)
        num_neighbours = self._best.shape[1]
        if first == 0 and len(best) > num_neighbours:
            # K + 1 groups reach the (K + 1)-th best maximum, so K rows other than the query do.
            bound = best.T.contiguous().topk(num_neighbours + 1).values.amin(1)  # (B,)
            self._above = below(bound - self._slack)
        above = self._above - self._slack
        which, part = (best > above).T.contiguous().nonzero().unbind(1)  # by query, then row
        row = part[:, None] * group + torch.arange(group, device=part.device)
        value = grouped[part, :, which].float()  # (groups, group)
        found = (value > above[which, None]) & (row + first != self._query[which, None])
        place = found.flatten().nonzero()[:, 0]
        which, row, value = which[place // group], row.flatten()[place], value.flatten()[place]
        if self._slack:
            value = _dots(self._unit, base, which, row)
        key = pack(value, row + first)
        count = torch.zeros_like(self._query).scatter_add_(0, which, torch.ones_like(which))
        place = torch.arange(len(which), device=which.device) - (count.cumsum(0) - count)[which]
        self._waiting.append((which, place + self._num_waiting[which], key))
        self._num_waiting += count
        self._total_waiting += len(key)
        if first == 0 or 2 * self._total_waiting >= self._best.numel():
            self._merge()

    def _merge(self) -> None:
        size, num_neighbours = self._best.shape
        longest = int(self._num_waiting.max())
        merged = self._best.new_full((size, num_neighbours + longest), NOTHING)
        merged[:, :num_neighbours] = self._best
        for which, place, key in self._waiting:
            merged[which, num_neighbours + place] = key
        self._best = merged.topk(num_neighbours, sorted=True).values
        last, similarity = (part[:, -1] for part in unpack(self._best))
        # A later row that only equals the K-th best comes after it.
        self._above = torch.where(last < 0, self._above, similarity)
        self._waiting, self._total_waiting = [], 0
        self._num_waiting.zero_()

    def result(self) -> tuple[Tensor, Tensor]:
        """(neighbours (B, K) int64, similarity (B, K) float32)."""
        self._merge()
        return unpack(self._best)


class TorchExact:
    """The K nearest rows of `rows` to any of its rows, by similarity, ties by smaller row.

    Similarities are float32 sums of products of the unit rows (see `UnitRows` for their type);
    those from 1 - 2^-20 on count as 1. Equal ones are ordered by row. O(N D) a query.
    """

    def __init__(self, rows: UnitRows, num_neighbours: int, tiles: Tiles | None = None) -> None:
        """`num_neighbours` at least 1, less than the number of rows."""
        assert 1 <= num_neighbours < len(rows), (num_neighbours, len(rows))
        self._rows, self._num_neighbours = rows, num_neighbours
        self._tiles = tiles or (CUDA_TILES if rows.device.type == "cuda" else CPU_TILES)

    @torch.no_grad()
    def search(self, query: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(neighbours (B, K) int64, similarity (B, K) float32) of rows `query` (B,), on the CPU."""
        rows = self._rows
        queries = rows.take(query)  # (B, D)
        own = torch.from_numpy(query).to(rows.device)
        step = self._tiles.num_queries
        parts = range(0, len(query), step)
        nearest = [
            _Nearest(own[start : start + step], queries[start : start + step], self._num_neighbours)
            for start in parts
        ]
        for first, base in rows.blocks():
            for start, part in zip(parts, nearest, strict=True):
                self._search(queries[start : start + step], part, first, base)
        results = [part.result() for part in nearest]
        return torch.cat([r[0] for r in results]).cpu(), torch.cat([r[1] for r in results]).cpu()

    def _search(self, queries: Tensor, nearest: _Nearest, first: int, base: Tensor) -> None:
        """Show a block of base rows to one part of the queries."""
        group = self._tiles.group
        step = -(-min(self._tiles.num_base, len(base)) // group) * group
        buffer = queries.new_empty((step, len(queries)))
        for start in range(0, len(base), step):
            tile = base[start : start + step]
            padded = -(-len(tile) // group) * group
            similarity = buffer[: len(tile)]
            torch.mm(tile, queries.T, out=similarity)
            buffer[len(tile) : padded] = -torch.inf
            nearest.add(tile, buffer[:padded], first + start, group)
