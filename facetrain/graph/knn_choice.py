"""Which way to search is fastest, measured on the very embedding."""

from typing import Literal, cast

import numpy as np

from facetrain.core.rng import numpy_generator
from facetrain.graph.knn_faiss import has_faiss
from facetrain.graph.knn_ivf import Ivf
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_searcher import Backend, exact_searcher, search_seconds

IndexChoice = Literal["auto", "exact", "ivf"]
BackendChoice = Literal["auto", "faiss", "torch"]

_EXACT_IS_WORTH = 2.0
"""IVF misses neighbours, so it must be this many times faster than exact search to be taken."""

_PROBE_FROM = 1 << 15
"""Rows; any search of fewer takes seconds, of which a probe would be a noticeable part."""
_IVF_FROM = 120.0
"""Seconds of the exact search; IVF is not tried where that takes less."""


def choose(
    rows: UnitRows,
    num_neighbours: int,
    index: IndexChoice,
    backend: BackendChoice,
    ivf: Ivf,
    world_size: int,
) -> tuple[Backend, Literal["exact", "ivf"], dict[str, float]]:
    """(backend, index, seconds that the whole graph should take by each way that was tried).

    What is not `auto` is not tried. IVF is tried, in earnest, where exact search is slow: making
    its lists costs a fiftieth of exact search at a million rows, and less beyond. On a GPU it is
    not, for faiss's works on the CPU. Below _PROBE_FROM rows nothing is measured and faiss is taken
    where it is installed, so that equal runs give equal bits; the two round differently.
    """
    if index == "ivf":
        return "faiss", "ivf", {}
    wanted = [name for name in ("faiss", "torch") if backend in ("auto", name)]
    if backend == "auto" and not has_faiss():
        wanted = ["torch"]
    backends = cast(list[Backend], wanted)
    may_be_ivf = index == "auto" and "faiss" in backends and rows.device.type == "cpu"
    if len(rows) < _PROBE_FROM or not (may_be_ivf or len(backends) > 1):
        return backends[0], "exact", {}
    seconds = _exact_seconds(rows, num_neighbours, backends, world_size)
    best = min(backends, key=seconds.__getitem__)
    if may_be_ivf and seconds[best] >= _IVF_FROM:
        seconds["ivf"] = ivf.seconds(world_size)
        if seconds["ivf"] * _EXACT_IS_WORTH < seconds[best]:
            return "faiss", "ivf", seconds
    return best, "exact", seconds


def _exact_seconds(
    rows: UnitRows, num_neighbours: int, backends: list[Backend], world_size: int
) -> dict[str, float]:
    """What the whole graph should take by each, by a search of some rows of a sample."""
    # Small beside the graph; but faiss is at its speed from about a thousand queries on, and a GPU
    # from one of its tiles.
    if rows.device.type == "cuda":
        num_sample, num_queries = min(len(rows), 1 << 17), 1 << 13
    else:
        num_sample = min(len(rows), max(1 << 11, min(len(rows) // 16, 1 << 15)))
        num_queries = 1 << 10
    generator = numpy_generator(0, "knn probe")
    chosen = np.sort(generator.choice(len(rows), num_sample, replace=False))
    sample = UnitRows(rows.embedding[chosen], rows.device)
    query = np.sort(generator.choice(num_sample, min(num_queries, num_sample), replace=False))
    num_neighbours = min(num_neighbours, num_sample - 1)
    share = len(rows) / num_sample * len(rows) / len(query) / world_size
    searchers = [exact_searcher(name, sample, num_neighbours) for name in backends]
    taken = search_seconds(searchers, query)
    return {name: value * share for name, value in zip(backends, taken, strict=True)}
