"""Centred cosines from the graph's plain ones, against cosines of centred embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.people import CPU, embedded, people, slow_knn

from facetrain.clean import embedded_set
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.data.features import unit_rows
from facetrain.graph.knn import KnnGraph


def centred(embedding: np.ndarray) -> np.ndarray:
    unit = unit_rows(embedding).astype(np.float64)
    apart = unit - unit.mean(0)
    return apart / np.linalg.norm(apart, axis=1, keepdims=True)


@pytest.mark.parametrize("cone", [0.0, 2.5], ids=["wide", "narrow"])
def test_context_against_centred_embeddings(cone: float) -> None:
    embedding, label = people(0, 12)
    embedding = embedding + cone * np.linalg.norm(embedding, axis=1, keepdims=True) / np.sqrt(24)
    images, knn = embedded(embedding, 12), slow_knn(embedding)
    unit = centred(embedding)
    row = torch.tensor([5, 0, 5, len(label) - 1])
    similarity, neighbour = images.context(row)
    assert similarity.shape == neighbour.shape == (4, 12)
    for i, own in enumerate(row.tolist()):
        graph = knn.neighbours[own]
        cosine = unit[graph] @ unit[own]
        order = np.argsort(-cosine, kind="stable")[:12]
        assert neighbour[i].tolist() == graph[order].tolist()
        np.testing.assert_allclose(similarity[i], cosine[order], atol=1e-5)
    # Float32 rows of length 1 that are what was centred here.
    np.testing.assert_allclose(images.rows(row), unit[row.numpy()], atol=1e-5)
    np.testing.assert_allclose(images.centred(3 * embedding[:2]), unit[:2], atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, _ = people(0, 6)
    row = torch.arange(len(embedding))
    whole = embedded(embedding).context(row)
    monkeypatch.setattr(embedded_set, "_ROWS_AT_ONCE", 7)
    pieces = embedded(embedding).context(row)
    np.testing.assert_allclose(pieces[0], whole[0], atol=1e-6)
    assert torch.equal(pieces[1], whole[1])


def test_reads_a_memory_map_of_float16(tmp_path: Path) -> None:
    """Against the same values in memory as float32: the file is only read."""
    embedding = people(1, 8)[0].astype(np.float16)
    np.save(tmp_path / "embedding.npy", embedding)
    knn = slow_knn(embedding.astype(np.float32))
    knn = KnnGraph(knn.neighbours, knn.similarity.astype(np.float16))
    knn.save(tmp_path)
    mapped = np.load(tmp_path / "embedding.npy", mmap_mode="r")
    images = EmbeddedSet(mapped, KnnGraph.open(tmp_path), 12, CPU)
    expected = embedded(embedding.astype(np.float32))
    row = torch.tensor([3, 1])
    assert images.rows(row).dtype == torch.float32
    np.testing.assert_allclose(images.rows(row), expected.rows(row), atol=1e-6)
    # The graph's cosines carry float16's error of 0.0005, over the squared length of what is left.
    np.testing.assert_allclose(images.context(row)[0], expected.context(row)[0], atol=2e-3)


def test_slots_that_the_graph_left_empty() -> None:
    """Empty slots say row -1 and cosine -1 and stand last, below a cosine of -0.97."""
    embedding = np.array([[1, 0.1], [-1, 0.1], [0, 1]], np.float32)
    knn = KnnGraph(
        np.array([[2, -1], [-1, -1], [0, 1]], np.int32),
        np.array([[0.0995, 0], [0, 0], [0.0995, 0.0995]], np.float32),
    )
    similarity, neighbour = EmbeddedSet(embedding, knn, 5, CPU).context(torch.arange(3))
    assert neighbour.tolist() == [[2, -1], [-1, -1], [0, 1]]
    unit = centred(embedding)
    expected = [[unit[0] @ unit[2], -1], [-1, -1], [unit[2] @ unit[0], unit[2] @ unit[1]]]
    np.testing.assert_allclose(similarity, expected, atol=1e-5)


def test_one_image() -> None:
    """It is its own mean: nothing is left of it, and nothing is near."""
    images = embedded(np.array([[3.0, 4.0]], np.float32))
    similarity, neighbour = images.context(torch.tensor([0]))
    assert (similarity.tolist(), neighbour.tolist()) == ([[-1]], [[-1]])
    assert torch.isfinite(images.rows(torch.tensor([0]))).all()
