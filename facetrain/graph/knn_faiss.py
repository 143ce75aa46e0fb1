"""Nearest neighbours by faiss: exact, and by an inverted file (IVF).

faiss is imported where it is used: importing facetrain does not need it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.errors import ConfigError
from facetrain.core.progress import progress
from facetrain.core.rng import derive_seed, numpy_generator
from facetrain.graph.knn_keys import NOTHING, pack, snap, unpack
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_torch import TorchExact

_TRAINING_ROWS_PER_LIST = 64
_TRAINING_ITERATIONS = 10
_CODE_ROWS = 1 << 14
_FILLED_AT_ONCE = 1 << 16
_NOMINATED = 4
"""Candidates that IVF's codes nominate for a neighbour. With 2, one in a hundred neighbours is lost
to the codes where the nearest are strangers, all about equally far; with 4, one in a thousand."""
_PAIRS_AT_ONCE = 1 << 14
_HALF_LEVELS = (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326)
_LEVELS = np.array([*(-level for level in reversed(_HALF_LEVELS)), *_HALF_LEVELS])
"""The 16 values that stand for a standard normal variable with the least squared error (J. Max,
"Quantizing for minimum distortion", 1960, table I): an element of a unit row is nearly normal."""
_RESERVOIR_FROM = 16
"""From this K on faiss collects candidates and cuts them now and then, rather than keep a heap of
each query; its own 100 is too late: 80 neighbours take 1.05 to 1.5 times as long with heaps."""


def has_faiss() -> bool:
    """Whether faiss can be imported."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def load_faiss() -> Any:
    """The module faiss, set to as many threads as torch, since each counts its own.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "graph.backend=faiss and graph.index=ivf need faiss, which is not installed; install "
            "it (pip install faiss-cpu), or set graph.backend=torch and graph.index=exact"
        ) from None
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


@contextlib.contextmanager
def _reservoirs(faiss: Any) -> Iterator[None]:
    before = faiss.cvar.distance_compute_min_k_reservoir
    faiss.cvar.distance_compute_min_k_reservoir = _RESERVOIR_FROM
    try:
        yield
    finally:
        faiss.cvar.distance_compute_min_k_reservoir = before


def _keys(similarity: NDArray[Any], found: NDArray[Any], first: int, query: Tensor) -> Tensor:
    """Keys of what faiss found among base rows `first` and on, the queries themselves left out."""
    index = torch.from_numpy(found)
    key = pack(torch.from_numpy(similarity), index + first)
    return torch.where((index < 0) | (index + first == query[:, None]), NOTHING, key)


def _largest(key: Tensor, num: int) -> Tensor:
    """The `num` largest of each row, downwards; NumPy sorts so few ten times as fast as torch."""
    ordered = np.sort(key.numpy(), axis=1)[:, : -num - 1 : -1]
    return torch.from_numpy(np.ascontiguousarray(ordered))


class FaissExact:
    """As `TorchExact`, by faiss's flat search over blocks; on a GPU where faiss and torch see one.

    faiss keeps any of the rows that tie for the last places. Where that may have happened, the
    search is repeated by `TorchExact`, so that here, too, the smaller rows stay.
    """

    def __init__(self, rows: UnitRows, num_neighbours: int) -> None:
        """Raises ConfigError: faiss is not installed."""
        self._faiss = load_faiss()
        self._gpu = rows.device.type == "cuda" and self._faiss.get_num_gpus() > 0
        self._resources = self._faiss.StandardGpuResources() if self._gpu else None
        self._device_index = rows.device.index or 0
        # faiss takes NumPy arrays, and copies a block to its GPU by itself.
        self._rows = UnitRows(rows.embedding, torch.device("cpu"))
        self._num_neighbours = num_neighbours
        self._tied = TorchExact(self._rows, num_neighbours)

    def _knn(self, queries: Tensor, base: Tensor, num: int) -> tuple[NDArray[Any], NDArray[Any]]:
        metric = self._faiss.METRIC_INNER_PRODUCT
        x, y = queries.numpy(), base.numpy()
        if self._gpu:
            found = self._faiss.knn_gpu(
                self._resources, x, y, num, metric=metric, device=self._device_index
            )
        else:
            found = self._faiss.knn(x, y, num, metric=metric)
        return found[0], found[1].astype(np.int64)

    def search(self, query: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """As `TorchExact.search`."""
        num_neighbours = self._num_neighbours
        queries, own = self._rows.take(query), torch.from_numpy(query)
        best = torch.full((len(query), num_neighbours), NOTHING)  # (B, K)
        cut = torch.full((len(query),), -torch.inf)  # (B,): what a block left out is not above it
        with _reservoirs(self._faiss):
            for first, base in self._rows.blocks():
                num = min(num_neighbours + 2, len(base))  # + the query + one to see a tie by
                similarity, found = self._knn(queries, base, num)
                if num < len(base):
                    cut = torch.maximum(cut, snap(torch.from_numpy(similarity[:, -1])))
                key = _keys(similarity, found, first, own)
                best = _largest(torch.cat([best, key], dim=1), num_neighbours)
        neighbours, nearest = unpack(best)
        tied = (cut >= nearest[:, -1]).nonzero()[:, 0]
        if len(tied):
            neighbours[tied], nearest[tied] = self._tied.search(query[tied.numpy()])
        return neighbours, nearest


def num_lists(num_rows: int) -> int:
    """Inverted lists for N rows: 4 sqrt(N), as faiss advises, each with rows to train on."""
    return max(1, min(int(4 * num_rows**0.5), num_rows // 39))


def _sample(rows: UnitRows, num_rows: int) -> NDArray[np.float32]:
    """Up to `num_rows` unit rows, always the same ones."""
    generator = numpy_generator(0, "knn training rows")
    chosen = generator.choice(len(rows), min(num_rows, len(rows)), replace=False)
    sample: NDArray[np.float32] = rows.take(np.sort(chosen)).float().cpu().numpy()
    return sample


def train_centroids(rows: UnitRows, lists: int) -> NDArray[np.float32]:
    """Centroids (lists, D) of spherical k-means on a sample of `rows`.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = load_faiss()
    kmeans = faiss.Kmeans(
        rows.size,
        lists,
        niter=_TRAINING_ITERATIONS,
        spherical=True,
        seed=derive_seed(0, "knn centroids") % 2**31,
        max_points_per_centroid=_TRAINING_ROWS_PER_LIST,
        min_points_per_centroid=1,
    )
    kmeans.train(_sample(rows, lists * _TRAINING_ROWS_PER_LIST))
    centroids: NDArray[np.float32] = kmeans.centroids
    return centroids


class FaissIvf:
    """Approximate neighbours: those among the `num_probes` lists nearest to the query.

    The lists hold four bits of each element of a unit row, N x D / 2 bytes, the only thing of that
    size here. Codes only nominate: the rows that they find are read again and compared in float32.
    Fewer than K found leave -1 at the end.
    """

    def __init__(
        self,
        rows: UnitRows,
        num_neighbours: int,
        centroids: NDArray[np.float32],
        *,
        show: bool = False,
    ) -> None:
        """Put all rows into lists. Raises ConfigError: faiss is not installed."""
        faiss = load_faiss()
        self._rows = UnitRows(rows.embedding, torch.device("cpu"))
        self._num_neighbours, self.num_lists = num_neighbours, len(centroids)
        self._quantizer = faiss.IndexFlatIP(rows.size)
        self._quantizer.add(centroids)
        # A product quantiser whose parts are single elements: faiss compares such codes fastest.
        self._index = faiss.IndexIVFPQFastScan(
            self._quantizer, rows.size, len(centroids), rows.size, 4, faiss.METRIC_INNER_PRODUCT
        )
        self._index.by_residual = False
        sample = _sample(self._rows, _CODE_ROWS)
        level = sample.mean(0)[:, None] + sample.std(0)[:, None] * _LEVELS  # (D, 16)
        faiss.copy_array_to_vector(level.astype(np.float32).ravel(), self._index.pq.centroids)
        self._index.is_trained = True
        parts = range(0, len(rows), _FILLED_AT_ONCE)
        for start in progress(parts, "graph: lists", unit="part", enabled=show):
            part = np.arange(start, min(start + _FILLED_AT_ONCE, len(rows)))
            self._index.add(self._rows.take(part).numpy())
        self.num_probes = 1

    def search(self, query: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(neighbours (B, K) int64, similarity (B, K) float32) of rows `query` (B,)."""
        queries = self._rows.take(query)
        self._index.nprobe = self.num_probes
        num = min(_NOMINATED * (self._num_neighbours + 1), len(self._rows))
        found = self._index.search(queries.numpy(), num)[1]  # (B, num), -1 for none
        similarity = np.empty(found.shape, np.float32)
        step = max(1, _PAIRS_AT_ONCE // num)
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            near = self._rows.take(found[part].ravel()).view(-1, num, self._rows.size)
            # A product and its sum, unlike a matrix product, are the same bits for copies of a row.
            similarity[part] = (queries[part, None] * near).sum(2).numpy()
        key = _keys(similarity, found, 0, torch.from_numpy(query))
        return unpack(_largest(key, self._num_neighbours))
