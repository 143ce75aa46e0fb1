"""The kNN graph: of each embedding its K most similar others; and the stage `graph`, which is that.

Ranks search blocks of rows and write them into shared arrays; a finished block is never done again.
What is held in memory is a block of queries, a block of base rows and, for IVF, the lists; the
embedding and the graph are memory maps.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from facetrain.core.artifact import Artifact, fingerprint
from facetrain.core.config import Config, config_digest
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.npy_file import read_npy, write_npy
from facetrain.core.progress import progress
from facetrain.core.row_blocks import RowBlocks
from facetrain.core.run_folder import NEIGHBOURS_FILE, NORM_FILE, SIMILARITY_FILE
from facetrain.dist.collectives import gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.dist.stage import run_stage
from facetrain.graph.knn_choice import BackendChoice, IndexChoice, choose
from facetrain.graph.knn_faiss import load_faiss
from facetrain.graph.knn_ivf import Ivf
from facetrain.graph.knn_rows import UnitRows, check_rows
from facetrain.graph.knn_searcher import Searcher, exact_searcher, recall

_CHECKED_ROWS = 1 << 16


class KnnConfig(Config):
    """How to build the kNN graph."""

    num_neighbours: int = Field(80, ge=1)
    """K; N - 1 where there are fewer rows. The cleaner reads `clean.graph.num_context` of them."""
    index: IndexChoice = "auto"
    """`exact`, `ivf` (approximate, by faiss), or what a probe on a sample finds fastest."""
    backend: BackendChoice = "auto"
    """Of the exact search: `faiss`, `torch`, or what the probe finds fastest."""
    recall_target: float = Field(0.95, gt=0, le=1)
    """Share of the true neighbours that `ivf` must find; it looks further until it does."""
    num_recall_queries: int = Field(1000, ge=1)
    """Rows on which the recall is measured against exact search."""
    dtype: Literal["float16", "float32"] = "float32"
    """Of `similarity.npy`."""
    block_size: int = Field(8192, ge=1)
    """Rows a rank searches at once; also what an interruption costs at most."""

    @model_validator(mode="after")
    def _ivf_is_of_faiss(self) -> "KnnConfig":
        if self.index == "ivf" and self.backend == "torch":
            raise ValueError("index=ivf is by faiss, but backend=torch; set backend to auto")
        return self


@dataclass(frozen=True)
class KnnGraph:
    """The K nearest of each of N rows, without itself.

    By similarity, downwards; ties by row, upwards. Where an approximate search found fewer than K,
    the end of a row is -1 with similarity 0.
    """

    neighbours: NDArray[Any]  # (N, K) int32, int64 where rows need it; -1 for none
    similarity: NDArray[Any]  # (N, K) float32 or float16 cosine

    def save(self, folder: Path) -> None:
        """Write `neighbours.npy` and `similarity.npy`, each atomically."""
        write_npy(folder / NEIGHBOURS_FILE, self.neighbours)
        write_npy(folder / SIMILARITY_FILE, self.similarity)

    @classmethod
    def open(cls, folder: Path) -> "KnnGraph":
        """The graph in `folder` as read-only memory maps.

        Reads all neighbours once, to see that each is a row.

        Raises:
            DataError: a file is missing, is no array, or they do not fit each other.
        """
        again = "build the graph again"
        neighbours = read_npy(
            folder / NEIGHBOURS_FILE,
            "the neighbours of a kNN graph",
            (None, None),
            (np.int32, np.int64),
            advice=again,
        )
        similarity = read_npy(
            folder / SIMILARITY_FILE,
            f"the similarity of each of {NEIGHBOURS_FILE}",
            neighbours.shape,
            (np.float16, np.float32),
            advice=again,
        )
        num_rows = len(neighbours)
        for start in range(0, num_rows, _CHECKED_ROWS):
            rows = neighbours[start : start + _CHECKED_ROWS]
            if rows.size and (rows.min() < -1 or rows.max() >= num_rows):
                raise DataError(
                    f"{folder / NEIGHBOURS_FILE}: neighbours must be rows, 0 to {num_rows - 1}, or "
                    f"-1 for none, but are {rows.min()} to {rows.max()}; {again}"
                )
        return cls(neighbours, similarity)


def _search(searcher: Searcher, blocks: RowBlocks, remaining: Sequence[int], mesh: Mesh) -> None:
    """Search and write this rank's share of the blocks."""
    start, stop = shard_range(len(remaining), mesh.rank, mesh.world_size)
    own = remaining[start:stop]
    shown = progress(own, "graph", unit="block", enabled=mesh.is_main)
    with blocks.writer() as writer:
        for block in shown:
            neighbours, similarity = searcher.search(np.arange(*blocks.rows(block)))
            writer.write(block, neighbours.numpy(), similarity.numpy())


def knn_graph(
    embedding: NDArray[Any],
    config: KnnConfig,
    mesh: Mesh,
    out_dir: Path,
    *,
    allow_zero: bool = False,
) -> tuple[KnnGraph, dict[str, Any]]:
    """The kNN graph of `embedding` as memory maps in `out_dir`, and what was measured.

    Called by every rank of `mesh` with the same arguments; `out_dir` is shared by them. A call that
    was interrupted continues, at any world size. Exact search costs O(N^2 D), IVF about O(N^1.5 D).

    Args:
        embedding: (N, D) float16 or float32, rows of any length but zero; may be a memory map.
        allow_zero: zero rows are images known to be missing; their similarity to all is 0.

    Returns:
        The graph, K = min(num_neighbours, N - 1); and its numbers: `backend`, `index`, `recall` (1
        for exact), `num_images`, `num_neighbours`, `seconds`, `queries_per_second` of the search,
        `num_resumed` (rows found done), `probe_seconds` (what the whole graph should take by each
        way that was tried), and for IVF `num_lists`, `num_probes` and `num_short` (rows for which
        fewer than K were found).

    Raises:
        DataError: rows without a direction, or an embedding of another shape or type.
        ConfigError: faiss is asked for and not installed.
    """
    if config.index == "ivf" or config.backend == "faiss":
        load_faiss()  # here, so that every rank fails before any waits for another
    # What is written, and by which search.
    check_rows(embedding, mesh, allow_zero=allow_zero)
    rows = UnitRows(embedding, mesh.device)
    num_neighbours = min(config.num_neighbours, len(rows) - 1)
    shape = (len(rows), num_neighbours)
    index_dtype = np.int32 if len(rows) < 2**31 else np.int64
    arrays = {NEIGHBOURS_FILE: (shape, index_dtype), SIMILARITY_FILE: (shape, config.dtype)}
    blocks = RowBlocks(out_dir, arrays, config.block_size)
    ivf = Ivf(rows, num_neighbours, config.recall_target, config.num_recall_queries, blocks.folder)
    plan = _prepare(rows, num_neighbours, config, ivf, blocks, mesh)
    by_ivf = plan["index"] == "ivf"
    # What is left to do; rank 0 looks, so that all ranks do the same.
    own = blocks.remaining() if num_neighbours and mesh.is_main else []
    remaining = gather_objects(own, mesh)[0]
    num_remaining = sum(len(range(*blocks.rows(block))) for block in remaining)
    if num_remaining < len(rows) and mesh.is_main:
        logger.info("resuming %s: %d rows done", out_dir, len(rows) - num_remaining)
    start = time.perf_counter()
    if remaining:
        searcher: Searcher = (
            ivf.searcher(mesh) if by_ivf else exact_searcher(plan["backend"], rows, num_neighbours)
        )
        start = time.perf_counter()
        _search(searcher, blocks, remaining, mesh)
        mesh.barrier()
    seconds = time.perf_counter() - start
    graph = KnnGraph.open(out_dir)
    metrics: dict[str, Any] = {
        "backend": plan["backend"],
        "index": plan["index"],
        "recall": 1.0,
        "num_neighbours": num_neighbours,
        "num_images": len(rows),
        "seconds": round(seconds, 3),
        "queries_per_second": round(num_remaining / seconds, 1),
        "num_resumed": len(rows) - num_remaining,
        "probe_seconds": plan["probe_seconds"],
    }
    if by_ivf and mesh.is_main:
        metrics["recall"] = recall(np.asarray(graph.neighbours[ivf.query]), ivf.exact())
        metrics.update(ivf.metrics())
        metrics["num_short"] = int((graph.neighbours[:, -1] < 0).sum())
    metrics = gather_objects(metrics, mesh)[0]
    if mesh.is_main:
        blocks.finish()
    mesh.barrier()
    return graph, metrics


def _prepare(
    rows: UnitRows, num_neighbours: int, config: KnnConfig, ivf: Ivf, blocks: RowBlocks, mesh: Mesh
) -> dict[str, Any]:
    """What rank 0 planned, now or before an interruption: `backend`, `index`, `probe_seconds`."""
    plan: dict[str, Any] | None = None
    if mesh.is_main:
        identity = {"config": config_digest(config), "embedding": rows.digest()}
        plan = blocks.interrupted(identity)
        if plan is None:
            blocks.create()
            backend, index, seconds = choose(
                rows,
                num_neighbours,
                config.index if num_neighbours else "exact",
                config.backend if num_neighbours else "torch",  # one row: nothing to search
                ivf,
                mesh.world_size,
            )
            plan = {"backend": backend, "index": index, "probe_seconds": seconds}
            blocks.note(identity, plan)
    plan = gather_objects(plan, mesh)[0]
    if mesh.is_main:
        logger.info("graph: %s search by %s", plan["index"], plan["backend"])
    return dict(plan)


def run(
    config: KnnConfig,
    embedding_path: Path,
    out_dir: Path,
    mesh: Mesh,
    *,
    inputs: Mapping[str, str],
) -> Artifact:
    """Build the graph of an `embedding.npy`; continues an interrupted run, at any world size.

    Leaves `neighbours.npy` and `similarity.npy` (see `KnnGraph`) and the manifest with what
    `knn_graph` measured.

    Args:
        inputs: name -> fingerprint of what made the embedding; the file itself is added here.

    Raises:
        DataError: no such `.npy`, or embeddings that `knn_graph` refuses.
        ConfigError: faiss is asked for and not installed.
    """
    again = "run the embed stage first"
    types = (np.float16, np.float32)
    embedding = read_npy(embedding_path, "embeddings", (None, None), types, advice=again)

    def work() -> dict[str, Any]:
        norm = embedding_path.with_name(NORM_FILE)  # the stage embed says which did not decode
        skipped = norm.is_file() and bool(
            (read_npy(norm, "norms", (len(embedding),), np.float32, advice=again) == 0).any()
        )
        return knn_graph(embedding, config, mesh, out_dir, allow_zero=skipped)[1]

    all_inputs = {**inputs, "embedding": fingerprint(embedding_path)}
    return run_stage("graph", config, all_inputs, out_dir, mesh, work)
