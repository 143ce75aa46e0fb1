"""A kNN graph over ranks equals that of one process."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.ranks import Ranks

from facetrain.core.errors import DataError
from facetrain.dist.mesh import Mesh
from facetrain.graph import knn_choice
from facetrain.graph.knn import KnnConfig, KnnGraph, knn_graph
from facetrain.graph.knn_torch import TorchExact

NUM_ROWS = 205


def embedding(broken: bool = False) -> Any:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((NUM_ROWS, 16)).astype(np.float32)
    rows[[20, 90, 204]] = rows[20]
    if broken:
        rows[[100, 204]] = 0
    return rows


def build(mesh: Mesh, out_dir: Path, keys: dict[str, Any], probe_from: int = 1 << 14) -> Any:
    # Blocks of 20 rows: 11 of them do not divide over 2 or 3 ranks.
    config = KnnConfig(num_neighbours=7, block_size=20, **keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn_choice, "_PROBE_FROM", probe_from)
        metrics = knn_graph(embedding(), config, mesh, out_dir)[1]
    return {name: value for name, value in metrics.items() if not name.endswith("second")}


def failure(mesh: Mesh, out_dir: Path) -> str:
    try:
        knn_graph(embedding(broken=True), KnnConfig(), mesh, out_dir)
    except DataError as error:
        return str(error)
    return "no error"


def die_in_the_fourth(mesh: Mesh, out_dir: Path) -> None:
    search, calls = TorchExact.search, [0]

    def dies(self: TorchExact, query: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return search(self, query)

    TorchExact.search = dies  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt):
        build(mesh, out_dir, {"backend": "torch"})
    TorchExact.search = search  # type: ignore[method-assign]


def assert_same(found: KnnGraph, whole: KnnGraph) -> None:
    # Blocks are the same at any world size, so products are too, up to how a kernel cuts them.
    np.testing.assert_array_equal(found.neighbours, whole.neighbours)
    np.testing.assert_allclose(found.similarity, whole.similarity, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "keys",
    [{"backend": "torch"}, {"backend": "faiss"}, {"index": "ivf", "recall_target": 0.8}],
    ids=["torch", "faiss", "ivf"],
)
def test_ranks_equal_one_process(ranks: Ranks, tmp_path: Path, keys: dict[str, Any]) -> None:
    whole = build(Mesh.single(), tmp_path / "whole", keys)
    sharded = ranks.run(build, tmp_path / "sharded", keys)
    assert all(metrics == sharded[0] for metrics in sharded)
    for name in ("index", "recall", "num_images", "num_neighbours"):
        assert sharded[0][name] == whole[name], name
    assert sharded[0].get("num_probes") == whole.get("num_probes")
    assert_same(KnnGraph.open(tmp_path / "sharded"), KnnGraph.open(tmp_path / "whole"))


def test_ranks_take_the_same_way_where_it_is_measured(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks.run(build, tmp_path / "auto", {}, 100)
    assert all(metrics == found[0] for metrics in found)
    seconds = found[0]["probe_seconds"]
    assert set(seconds) == {"faiss", "torch"}
    assert found[0]["backend"] == min(seconds, key=seconds.get)
    build(Mesh.single(), tmp_path / "whole", {"backend": "torch"})
    auto, whole = (KnnGraph.open(tmp_path / name) for name in ("auto", "whole"))
    np.testing.assert_allclose(auto.similarity, whole.similarity, rtol=0, atol=1e-6)


def test_continues_at_another_world_size(ranks: Ranks, tmp_path: Path) -> None:
    die_in_the_fourth(Mesh.single(), tmp_path / "resumed")
    keys = {"backend": "torch"}
    assert {m["num_resumed"] for m in ranks.run(build, tmp_path / "resumed", keys)} == {60}
    build(Mesh.single(), tmp_path / "whole", keys)
    assert_same(KnnGraph.open(tmp_path / "resumed"), KnnGraph.open(tmp_path / "whole"))


def test_a_row_that_one_rank_refuses_is_named_by_all(ranks: Ranks, tmp_path: Path) -> None:
    texts = set(ranks.run(failure, tmp_path / "graph"))
    assert len(texts) == 1
    assert "2 of 205 are, the first in row 100;" in texts.pop()
