"""Which way to search is fastest, measured on a sample of the very embedding."""

import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.rng import numpy_generator
from facetrain.graph.knn_faiss import FaissExact, FaissIvf, has_faiss, num_lists, train_centroids
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_torch import TorchExact

IndexChoice = Literal["auto", "exact", "ivf"]
BackendChoice = Literal["auto", "faiss", "torch"]

_EXACT_IS_WORTH = 2.0
"""IVF misses neighbours, so it must be this many times faster than exact search to be taken."""


_PROBE_FROM = 1 << 14
_IVF_FROM = 100_000
"""Rows; exact search of fewer takes a minute or two on one core."""


class Searcher(Protocol):
    """Finds neighbours of any rows of the embedding among all of its rows."""

    backend: str
    index: str

    def search(self, query: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(neighbours (B, K) int64, similarity (B, K) float32) of the rows `query` (B,)."""


def exact_searcher(backend: str, rows: UnitRows, num_neighbours: int) -> Searcher:
    """The exact search of `faiss` or `torch`."""
    kind = {"faiss": FaissExact, "torch": TorchExact}[backend]
    searcher: Searcher = kind(rows, num_neighbours)
    return searcher


def recall(found: NDArray[Any], exact: NDArray[Any]) -> float:
    """Share of the `exact` neighbours (Q, K) that are among the `found` (Q, K), in any order."""
    assert found.shape == exact.shape, (found.shape, exact.shape)
    if exact.size == 0:
        return 1.0
    both = np.sort(np.concatenate([found, exact], axis=1), axis=1)  # (Q, 2K)
    return float(((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)).sum() / (exact >= 0).sum())


def tune_probes(
    searcher: FaissIvf, query: NDArray[np.int64], exact: NDArray[Any], target: float
) -> None:
    """Raise `searcher.num_probes` by a quarter at a time until its recall reaches `target`."""
    searcher.num_probes = 1
    while recall(searcher.search(query)[0].numpy(), exact) < target:
        if searcher.num_probes == searcher.num_lists:
            return
        more = max(searcher.num_probes + 1, searcher.num_probes * 5 // 4)
        searcher.num_probes = min(more, searcher.num_lists)


def _seconds(searchers: Sequence[Searcher], query: NDArray[np.int64]) -> list[float]:
    """Seconds of one search by each: the best of two in turns, after a small one to warm up."""
    taken: list[list[float]] = [[] for _ in searchers]
    for searcher in searchers:
        searcher.search(query[:16])
    for _ in range(2):
        for searcher, seconds in zip(searchers, taken, strict=True):
            start = time.perf_counter()
            searcher.search(query)
            seconds.append(time.perf_counter() - start)
    return [min(seconds) for seconds in taken]


def _ivf_seconds(
    sample: UnitRows,
    num_rows: int,
    query: NDArray[np.int64],
    exact: NDArray[Any],
    target: float,
    world_size: int,
) -> float:
    """Seconds an IVF graph of `num_rows` rows should take, by one of a sample of them.

    With 4 sqrt(N) lists a query that probes as many lists scans sqrt(N) as many rows, and training
    and filling, which every rank does, grow as (rows) x (lists).
    """
    lists, small_lists = num_lists(num_rows), num_lists(len(sample))
    start = time.perf_counter()
    centroids = train_centroids(sample, small_lists)
    searcher = FaissIvf(sample, exact.shape[1], centroids)
    build = time.perf_counter() - start
    tune_probes(searcher, query, exact, target)
    search = _seconds([searcher], query)[0] / len(query)
    growth = num_rows / len(sample)
    build *= growth * lists / small_lists
    seconds: float = build + search * num_rows * growth**0.5 / world_size
    return seconds


def choose(
    rows: UnitRows,
    num_neighbours: int,
    index: IndexChoice,
    backend: BackendChoice,
    recall_target: float,
    world_size: int,
) -> tuple[str, str, dict[str, float]]:
    """(backend, index, seconds that the whole graph should take by each way that was tried).

    What is not `auto` is not tried, nor is IVF below 100,000 rows. Below _PROBE_FROM rows any
    search takes moments: there nothing is measured and faiss is taken where it is installed, so
    that equal runs give equal bits. The two round differently.
    """
    if index == "ivf":
        return "faiss", "ivf", {}
    backends = [name for name in ("faiss", "torch") if backend in ("auto", name)]
    if backend == "auto" and not has_faiss():
        backends = ["torch"]
    try_ivf = index == "auto" and "faiss" in backends and len(rows) >= _IVF_FROM
    if not try_ivf and (len(backends) == 1 or len(rows) < _PROBE_FROM):
        return backends[0], "exact", {}
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
    taken = [value * share for value in _seconds(searchers, query)]
    seconds = dict(zip(backends, taken, strict=True))
    best = min(backends, key=seconds.__getitem__)
    if try_ivf:
        exact = searchers[0].search(query)[0].numpy()
        seconds["ivf"] = _ivf_seconds(sample, len(rows), query, exact, recall_target, world_size)
        if seconds["ivf"] * _EXACT_IS_WORTH < seconds[best]:
            return "faiss", "ivf", seconds
    return best, "exact", seconds
