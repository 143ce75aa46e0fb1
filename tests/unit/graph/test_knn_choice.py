"""Which way the kNN graph is searched: what the probe takes, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.knn import build, identities, slow_graph
from numpy.typing import NDArray

from facetrain.core.errors import ConfigError
from facetrain.dist.mesh import Mesh
from facetrain.graph import knn, knn_choice, knn_ivf
from facetrain.graph.knn import KnnConfig
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_searcher import recall
from facetrain.graph.knn_torch import TorchExact


def test_auto_takes_the_fastest_of_the_probe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = TorchExact.search

    def slow(self: TorchExact, query: NDArray[np.int64]) -> Any:
        knn.time.sleep(0.5)
        return search(self, query)

    monkeypatch.setattr(knn_choice, "_PROBE_FROM", 100)
    _, metrics = build(identities(200), tmp_path / "a", num_neighbours=5)
    assert metrics["backend"] == min(metrics["probe_seconds"], key=metrics["probe_seconds"].get)
    monkeypatch.setattr(TorchExact, "search", slow)
    _, metrics = build(identities(200), tmp_path / "b", num_neighbours=5)
    assert metrics["backend"] == "faiss"
    assert set(metrics["probe_seconds"]) == {"faiss", "torch"}
    # Below it nothing is measured: equal runs must not differ by a stopwatch.
    monkeypatch.setattr(knn_choice, "_PROBE_FROM", 1000)
    _, metrics = build(identities(200), tmp_path / "c", num_neighbours=5)
    assert metrics["backend"] == "faiss"
    assert not metrics["probe_seconds"]


def test_auto_weighs_ivf_where_exact_is_slow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The recorded seconds must explain the choice: IVF has to be twice as fast as the best."""
    embedding = identities(3000)
    monkeypatch.setattr(knn_choice, "_PROBE_FROM", 1000)
    monkeypatch.setattr(knn_choice, "_IVF_FROM", 0.0)
    for worth in (2.0, 1e-9, 1e9):
        monkeypatch.setattr(knn_choice, "_EXACT_IS_WORTH", worth)
        graph, metrics = build(embedding, tmp_path / str(worth), num_neighbours=5)
        seconds = metrics["probe_seconds"]
        ivf = seconds["ivf"] * worth < min(seconds["faiss"], seconds["torch"])
        assert metrics["index"] == ("ivf" if ivf else "exact")
        assert metrics["index"] == {1e-9: "ivf", 1e9: "exact"}.get(worth, metrics["index"])
        assert metrics["recall"] >= 0.95
        assert recall(graph.neighbours, slow_graph(embedding, 5)[0]) > 0.93
    monkeypatch.setattr(knn_choice, "_IVF_FROM", 1e9)
    _, metrics = build(embedding, tmp_path / "fast", num_neighbours=5)
    assert set(metrics["probe_seconds"]) == {"faiss", "torch"}


def test_ivf_is_tried_on_the_whole_embedding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what it learned is kept: the search that follows trains and tunes nothing again."""
    embedding = identities(3000)
    ivf = knn_ivf.Ivf(UnitRows(embedding, torch.device("cpu")), 5, 0.95, 500, tmp_path)
    assert ivf.seconds(1) > 0
    assert np.load(tmp_path / "centroids.npy").shape == (76, 16)  # 3000 // 39
    assert ivf.metrics()["num_lists"] == 76
    for name in ("train_centroids", "tune_probes"):
        monkeypatch.setattr(knn_ivf, name, lambda *_, name=name: pytest.fail(f"{name} again"))
    searcher = ivf.searcher(Mesh.single())
    found = searcher.search(ivf.query)[0].numpy()
    assert recall(found, ivf.exact()) >= 0.95
    np.testing.assert_array_equal(
        np.sort(ivf.exact()), np.sort(slow_graph(embedding, 5)[0][ivf.query])
    )


def test_without_faiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    _, metrics = build(identities(50), tmp_path / "auto")
    assert metrics["backend"] == "torch"
    for keys in ({"backend": "faiss"}, {"index": "ivf"}):
        with pytest.raises(ConfigError, match="not installed; install it"):
            build(identities(50), tmp_path / "asked", **keys)


def test_ivf_is_not_of_torch() -> None:
    with pytest.raises(ConfigError, match="set backend to auto"):
        KnnConfig(index="ivf", backend="torch")
