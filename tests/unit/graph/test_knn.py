"""The kNN graph against a sort of all similarities in float64."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.knn import build, identities, slow_graph
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.dist.mesh import Mesh
from facetrain.graph import knn, knn_faiss, knn_ivf, knn_rows
from facetrain.graph.knn import KnnConfig, KnnGraph
from facetrain.graph.knn_faiss import FaissExact
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_searcher import recall
from facetrain.graph.knn_torch import Tiles, TorchExact

EXACT = ("torch", "faiss")
CPU = torch.device("cpu")
# float32 sums of 16 products of numbers below 1: about 16 roundings of 6e-8.
TOLERANCE = 2e-6


def assert_nearest(found: tuple[Any, Any], embedding: NDArray[Any], num_neighbours: int) -> None:
    """Similarities are the K largest, and each is that of its neighbour: near ties may swap."""
    _, expected, similarity = slow_graph(embedding, num_neighbours)
    neighbours, values = (np.asarray(part) for part in found)
    np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)
    its_own = np.take_along_axis(similarity, neighbours.astype(np.int64), axis=1)
    np.testing.assert_allclose(values, its_own, rtol=0, atol=TOLERANCE)
    assert (neighbours != np.arange(len(neighbours))[:, None]).all()
    assert all(len(set(row)) == num_neighbours for row in neighbours.tolist())
    assert (np.diff(values, axis=1) <= 0).all()


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("num_rows", [2, 3, 9, 10, 500])
def test_equals_a_sort_of_everything(tmp_path: Path, backend: str, num_rows: int) -> None:
    """Ten neighbours: of 2, 3, 9 and 10 rows those are all the others."""
    embedding = identities(num_rows)
    graph, metrics = build(embedding, tmp_path, backend=backend, num_neighbours=10, block_size=77)
    num_neighbours = min(10, num_rows - 1)
    assert_nearest((graph.neighbours, graph.similarity), embedding, num_neighbours)
    assert graph.neighbours.dtype == np.int32
    assert graph.similarity.dtype == np.float32
    assert (metrics["recall"], metrics["num_neighbours"]) == (1.0, num_neighbours)
    assert (metrics["backend"], metrics["index"]) == (backend, "exact")


def test_three_worked_rows(tmp_path: Path) -> None:
    """Angles 0, 60 and 90 degrees: cosines 1/2, 0 and cos 30 = 0.8660."""
    embedding = np.array([[2, 0], [0.5, 0.75**0.5], [0, 5]], np.float32)
    graph, _ = build(embedding, tmp_path)
    assert graph.neighbours.tolist() == [[1, 2], [2, 0], [1, 0]]
    expected = [[0.5, 0.0], [0.8660254, 0.5], [0.8660254, 0.0]]
    np.testing.assert_allclose(graph.similarity, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", EXACT)
def test_copies_tie_and_the_smaller_rows_stay(tmp_path: Path, backend: str) -> None:
    """30 copies scattered among 300 rows, 12 neighbours: far more ties than places."""
    embedding = identities(300)
    copies = np.sort(np.random.default_rng(3).permutation(300)[:30])
    embedding[copies] = embedding[copies[0]] * np.linspace(1, 7, 30, dtype=np.float32)[:, None]
    graph, _ = build(embedding, tmp_path, backend=backend, num_neighbours=12)
    for row in copies:
        smallest = [other for other in copies if other != row][:12]
        assert graph.neighbours[row].tolist() == smallest
        assert graph.similarity[row].tolist() == [1.0] * 12
    assert_nearest((graph.neighbours, graph.similarity), embedding, 12)


@pytest.mark.parametrize("kind", [TorchExact, FaissExact])
def test_all_rows_alike(kind: Any) -> None:
    searcher = kind(UnitRows(np.ones((40, 8), np.float32), CPU), 5)
    neighbours, similarity = searcher.search(np.array([0, 3, 39]))
    assert neighbours.tolist() == [[1, 2, 3, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2, 3, 4]]
    assert (similarity == 1).all()


def test_opposite_and_negative_similarities(tmp_path: Path) -> None:
    embedding = np.array([[1, 0], [-1, 0.01], [-1, 0.02]], np.float32)
    graph, _ = build(embedding, tmp_path, backend="torch")
    assert graph.neighbours[0].tolist() == [2, 1]
    assert (graph.similarity[0] < -0.999).all()


@pytest.mark.parametrize("tiles", [Tiles(7, 13, 4), Tiles(100, 64, 8), Tiles(1, 3, 3)])
@pytest.mark.parametrize("block_bytes", [1 << 29, 16 * 4 * 37])
def test_tiles_that_do_not_divide(
    monkeypatch: pytest.MonkeyPatch, tiles: Tiles, block_bytes: int
) -> None:
    """Base blocks of all 211 rows or of 37, tiles of 13, 64 or 3, queries by 7, 100 or 1."""
    monkeypatch.setattr(knn_rows, "_CPU_BLOCK_BYTES", block_bytes)
    embedding = identities(211)
    found = TorchExact(UnitRows(embedding, CPU), 6, tiles).search(np.arange(211))
    assert_nearest(found, embedding, 6)


@pytest.mark.parametrize("tiles", [None, Tiles(64, 96, 16)])
@pytest.mark.parametrize("size", [1, 13, 64])
def test_half_precision_rows_nominate_and_float32_decides(size: int, tiles: Tiles | None) -> None:
    """As on a GPU. Neighbours lie far closer together than float16 can tell apart."""
    generator = np.random.default_rng(0)
    embedding = 1 + 0.03 * generator.standard_normal((300, size)).astype(np.float32)
    embedding[[7, 100, 200, 299]] = embedding[7]
    rows = UnitRows(embedding, CPU)
    rows.dtype = torch.float16
    unit = rows.take(np.arange(300)).double().numpy()
    exact = np.minimum(unit @ unit.T, 1.0)
    np.fill_diagonal(exact, -2)
    order = np.sort(exact, axis=1)[:, ::-1][:, :6]
    assert np.median(order[:, 0] - order[:, 5]) < 2**-11 or size == 1
    neighbours, similarity = TorchExact(rows, 6, tiles).search(np.arange(300))
    np.testing.assert_allclose(similarity, order, rtol=0, atol=2e-6)
    found = np.take_along_axis(exact, neighbours.numpy(), axis=1)
    np.testing.assert_allclose(found, order, rtol=0, atol=2e-6)
    assert neighbours[7, :3].tolist() == [100, 200, 299] or size == 1


def test_base_blocks_by_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_rows, "_CPU_BLOCK_BYTES", 16 * 4 * 37)
    embedding = identities(211)
    embedding[[5, 50, 100, 150, 200]] = embedding[5]  # copies in different blocks
    found = FaissExact(UnitRows(embedding, CPU), 3).search(np.arange(211))
    assert_nearest(found, embedding, 3)
    assert found[0][[5, 50, 200]].tolist() == [[50, 100, 150], [5, 100, 150], [5, 50, 100]]


@pytest.mark.parametrize("index", ["exact", "ivf"])
def test_a_float16_memory_map_of_any_row_length(tmp_path: Path, index: str) -> None:
    np.save(tmp_path / "embedding.npy", identities(400).astype(np.float16))
    embedding = np.load(tmp_path / "embedding.npy", mmap_mode="r")
    keys = {"num_neighbours": 5, "dtype": "float16", "recall_target": 1.0}
    graph, metrics = build(embedding, tmp_path / "graph", index=index, **keys)
    order, expected, _ = slow_graph(embedding, 5)
    assert graph.similarity.dtype == np.float16
    # float16 keeps 11 bits of the stored similarity.
    np.testing.assert_allclose(graph.similarity, expected, rtol=0, atol=3e-4)
    assert recall(graph.neighbours, order) > 0.99
    assert metrics["recall"] > 0.99


def test_recorded_recall_is_that_of_the_graph(tmp_path: Path) -> None:
    embedding = identities(3000)
    keys = {"index": "ivf", "num_neighbours": 10, "num_recall_queries": 3000}
    graph, metrics = build(embedding, tmp_path / "90", recall_target=0.9, **keys)
    order, _, _ = slow_graph(embedding, 10)
    right = [
        len(set(a) & set(b)) for a, b in zip(graph.neighbours.tolist(), order.tolist(), strict=True)
    ]
    # Near ties at the tenth place may differ from float64: at most a few of 30,000.
    assert metrics["recall"] == pytest.approx(sum(right) / order.size, abs=2e-4)
    assert 0.9 <= metrics["recall"] < 1
    assert 1 < metrics["num_probes"] < metrics["num_lists"] == 76  # 3000 // 39
    assert (graph.neighbours != np.arange(3000)[:, None]).all()
    _, all_lists = build(embedding, tmp_path / "100", recall_target=1.0, **keys)
    assert all_lists["recall"] > 0.9999
    assert all_lists["num_probes"] > metrics["num_probes"]


def test_ivf_compares_the_rows_themselves(tmp_path: Path) -> None:
    """Four bits of an element nominate; similarities are exact, and copies tie by row."""
    embedding = identities(900, size=5)
    embedding[:, 3] = 0.0  # an element without spread
    embedding[[7, 70, 700]] = embedding[7]
    keys = {"index": "ivf", "num_neighbours": 12, "recall_target": 1.0, "block_size": 128}
    graph, _ = build(embedding, tmp_path, **keys)
    order, expected, similarity = slow_graph(embedding, 12)
    assert recall(graph.neighbours, order) > 0.999
    its_own = np.take_along_axis(similarity, graph.neighbours.astype(np.int64), axis=1)
    np.testing.assert_allclose(graph.similarity, its_own, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(graph.similarity, expected, rtol=0, atol=0.02)
    assert graph.neighbours[7, :2].tolist() == [70, 700]
    copies = (7, 70, 700)
    for row in set(range(900)) - set(copies):
        near = [n for n in graph.neighbours[row].tolist() if n in copies]
        assert near == [7, 70, 700][: len(near)]
    assert (np.diff(graph.similarity, axis=1) <= 0).all()


@pytest.mark.parametrize("num_rows", [2, 15, 40])
def test_ivf_of_a_handful(tmp_path: Path, num_rows: int) -> None:
    embedding = identities(num_rows)
    graph, metrics = build(embedding, tmp_path, index="ivf", num_neighbours=10)
    assert metrics["num_lists"] == 1
    assert_nearest((graph.neighbours, graph.similarity), embedding, min(10, num_rows - 1))


def test_too_few_found_leaves_padding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One list is probed, and lists hold about 40 rows: 60 neighbours cannot be found."""
    monkeypatch.setattr(knn_ivf, "tune_probes", lambda *_: None)
    graph, metrics = build(identities(1000), tmp_path, index="ivf", num_neighbours=60)
    short = (graph.neighbours < 0).any(axis=1)
    assert metrics["num_short"] == short.sum() > 0
    missing = graph.neighbours < 0
    assert (graph.similarity[missing] == 0).all()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all()  # only at the end


def test_recall_of_worked_sets() -> None:
    exact = np.array([[1, 2], [3, 4], [5, 6]])
    found = np.array([[2, 1], [3, 9], [-1, -1]])
    assert recall(found, exact) == pytest.approx(3 / 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_rows_without_direction_are_refused(tmp_path: Path, value: float) -> None:
    embedding = identities(50)
    embedding[[7, 31]] = value
    with pytest.raises(DataError, match=r"2 of 50 are, the first in row 7; drop"):
        build(embedding, tmp_path)
    assert not (tmp_path / "neighbours.npy").exists()


@pytest.mark.parametrize(
    "embedding",
    [np.zeros((0, 4), np.float32), np.ones(5, np.float32), np.ones((3, 2), np.float64)],
    ids=["empty", "one axis", "float64"],
)
def test_other_shapes_and_types_are_refused(tmp_path: Path, embedding: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"must be \(N, D\) of float16 or float32"):
        build(embedding, tmp_path)


def test_one_row_has_no_neighbours(tmp_path: Path) -> None:
    graph, metrics = build(identities(1), tmp_path)
    assert graph.neighbours.shape == graph.similarity.shape == (1, 0)
    assert metrics["num_neighbours"] == 0


def test_an_interrupted_search_redoes_no_finished_block(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    embedding = identities(100)
    keys: dict[str, Any] = {"backend": "torch", "num_neighbours": 5, "block_size": 9}
    searched: list[int] = []
    search = TorchExact.search

    def dies_in_the_fifth(self: TorchExact, query: NDArray[np.int64]) -> Any:
        searched.append(int(query[0]))
        if len(searched) == 5:
            raise KeyboardInterrupt
        return search(self, query)

    monkeypatch.setattr(TorchExact, "search", dies_in_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        build(embedding, tmp_path, **keys)
    graph, metrics = build(embedding, tmp_path, **keys)
    assert searched == [0, 9, 18, 27, 36, 36, 45, 54, 63, 72, 81, 90, 99]
    assert metrics["num_resumed"] == 36
    assert_nearest((graph.neighbours, graph.similarity), embedding, 5)
    assert {path.name for path in tmp_path.iterdir()} == {"neighbours.npy", "similarity.npy"}


def test_another_embedding_starts_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"backend": "torch", "num_neighbours": 5, "block_size": 40}
    monkeypatch.setattr(knn.RowBlocks, "finish", lambda _: None)  # as if killed at the end
    build(identities(100), tmp_path, **keys)
    monkeypatch.undo()
    other = identities(100, seed=1)
    graph, metrics = build(other, tmp_path, **keys)
    assert metrics["num_resumed"] == 0
    assert_nearest((graph.neighbours, graph.similarity), other, 5)


def test_faiss_uses_the_threads_of_torch() -> None:
    faiss = pytest.importorskip("faiss")
    before = torch.get_num_threads()
    for threads in (2, 1):
        torch.set_num_threads(threads)
        knn_faiss.load_faiss()
        assert faiss.omp_get_max_threads() == threads
    torch.set_num_threads(before)


def test_save_and_open(tmp_path: Path) -> None:
    graph = KnnGraph(np.array([[1, -1], [0, -1]], np.int32), np.array([[0.5, 0], [0.5, 0]], "f4"))
    graph.save(tmp_path)
    opened = KnnGraph.open(tmp_path)
    assert isinstance(opened.neighbours, np.memmap)
    assert opened.neighbours.tolist() == graph.neighbours.tolist()
    assert opened.similarity.tolist() == graph.similarity.tolist()
    np.save(tmp_path / "similarity.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(
        DataError, match=r"shape \(2, 2\), but is float32 of shape \(2, 3\); build the"
    ):
        KnnGraph.open(tmp_path)
    (tmp_path / "similarity.npy").unlink()
    with pytest.raises(DataError, match=r"similarity\.npy: .* there is no such file"):
        KnnGraph.open(tmp_path)
    for wrong in (-2, 2):
        KnnGraph(np.array([[1, -1], [wrong, -1]], np.int32), graph.similarity).save(tmp_path)
        with pytest.raises(
            DataError, match=r"must be rows, 0 to 1, or -1 for none, but are -\d to"
        ):
            KnnGraph.open(tmp_path)


def test_the_stage_leaves_a_manifest_and_is_skipped_when_done(tmp_path: Path) -> None:
    path, out_dir = tmp_path / "embedding.npy", tmp_path / "graph"
    np.save(path, identities(60))
    config = KnnConfig(num_neighbours=4)
    artifact = knn.run(config, path, out_dir, Mesh.single(), inputs={"backbone": "b1"})
    manifest = json.loads((out_dir / "manifest.json").read_text())
    assert manifest["stage"] == "graph"
    assert set(manifest["inputs"]) == {"backbone", "embedding"}
    assert artifact.metrics["num_images"] == 60
    assert_nearest(
        (KnnGraph.open(out_dir).neighbours, KnnGraph.open(out_dir).similarity), np.load(path), 4
    )
    times = [(out_dir / "neighbours.npy").stat().st_mtime_ns]
    for rows in (None, identities(60, seed=1)):  # unchanged, then another embedding
        if rows is not None:
            np.save(path, rows)
        knn.run(config, path, out_dir, Mesh.single(), inputs={"backbone": "b1"})
        times.append((out_dir / "neighbours.npy").stat().st_mtime_ns)
    assert [later > earlier for earlier, later in pairwise(times)] == [False, True]
    with pytest.raises(DataError, match="run the embed stage first"):
        knn.run(config, tmp_path / "no.npy", out_dir, Mesh.single(), inputs={})
