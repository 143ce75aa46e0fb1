"""Approximate search of a whole embedding: how its lists are made, and how many are looked into."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import Sealed, read_sealed, set_aside, write_sealed
from facetrain.core.digest import file_digest
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.npy_file import write_npy
from facetrain.core.rng import numpy_generator
from facetrain.dist.mesh import Mesh
from facetrain.graph.knn_faiss import FaissIvf, num_lists, train_centroids
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_searcher import exact_searcher, recall, search_seconds


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


class _Tuned(Sealed):
    """Centroids that were trained, and how many lists to look into (0 until that is known)."""

    centroids: str
    num_probes: int


class Ivf:
    """IVF search over all rows, the same on every rank and after an interruption.

    Args:
        recall_target: share of the true neighbours that must be found.
        num_queries: rows on which that is measured.
        folder: where what was found is kept.
    """

    def __init__(
        self,
        rows: UnitRows,
        num_neighbours: int,
        recall_target: float,
        num_queries: int,
        folder: Path,
    ) -> None:
        self._rows, self._num_neighbours = rows, num_neighbours
        self._recall_target = recall_target
        self._centroids, self._tuning = folder / "centroids.npy", folder / "tuned.json"
        count = min(num_queries, len(rows))
        chosen = numpy_generator(0, "knn recall").choice(len(rows), count, replace=False)
        self.query = np.sort(chosen)
        self._exact: NDArray[Any] | None = None

    def exact(self) -> NDArray[Any]:
        """True neighbours (Q, K) of the rows on which recall is measured."""
        if self._exact is None:
            searcher = exact_searcher("torch", self._rows, self._num_neighbours)
            self._exact = searcher.search(self.query)[0].numpy()
        return self._exact

    def metrics(self) -> dict[str, int]:
        """How many lists there are, and how many of them a query looks into."""
        num_probes = read_sealed(self._tuning, _Tuned).num_probes
        return {"num_lists": num_lists(len(self._rows)), "num_probes": num_probes}

    def _kept(self) -> _Tuned | None:
        """What was tuned before an interruption, if its files are as they were written."""
        if not self._tuning.is_file():
            return None
        try:
            tuned = read_sealed(self._tuning, _Tuned)
            if file_digest(self._centroids) == tuned.centroids:
                return tuned
            problem = f"{self._centroids}: must be as it was written, but has changed since"
        except DataError as error:
            problem = str(error)
        set_aside(self._tuning, problem)
        return None

    def _tuned(self, *, show: bool) -> FaissIvf:
        """Lists trained, filled, and so many of them probed as the recall takes."""
        tuned = self._kept()
        if tuned is None:
            logger.info("graph: training %d inverted lists", num_lists(len(self._rows)))
            centroids = train_centroids(self._rows, num_lists(len(self._rows)))
            write_npy(self._centroids, centroids)
            tuned = _Tuned(centroids=file_digest(self._centroids), num_probes=0)
            write_sealed(self._tuning, tuned)
        centroids = np.load(self._centroids)
        searcher = FaissIvf(self._rows, self._num_neighbours, centroids, show=show)
        if not tuned.num_probes:
            tune_probes(searcher, self.query, self.exact(), self._recall_target)
            tuned = tuned.model_copy(update={"num_probes": searcher.num_probes})
            write_sealed(self._tuning, tuned)
        searcher.num_probes = tuned.num_probes
        return searcher

    def seconds(self, world_size: int) -> float:
        """What the whole graph should take, by a search of the rows that measure recall.

        The lists are those of the whole embedding: a sample of it has few images of each identity,
        and strangers are far harder to find. Their centroids are kept for the search itself.
        """
        start = time.perf_counter()
        searcher = self._tuned(show=True)
        made = time.perf_counter() - start
        taken = search_seconds([searcher], self.query)[0]
        return made + taken * len(self._rows) / len(self.query) / world_size

    def searcher(self, mesh: Mesh) -> FaissIvf:
        """Rank 0 trains and tunes, every rank fills lists of its own."""
        tuned = self._tuned(show=True) if mesh.is_main else None
        mesh.barrier()
        return tuned or self._tuned(show=False)
