"""What every way to search has in common."""

import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facetrain.graph.knn_faiss import FaissExact
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_torch import TorchExact

Backend = Literal["faiss", "torch"]


class Searcher(Protocol):
    """Finds neighbours of any rows of the embedding among all of its rows."""

    def search(self, query: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(neighbours (B, K) int64, similarity (B, K) float32) of the rows `query` (B,)."""


def exact_searcher(backend: Backend, rows: UnitRows, num_neighbours: int) -> Searcher:
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


def search_seconds(searchers: Sequence[Searcher], query: NDArray[np.int64]) -> list[float]:
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
