"""Embeddings of made-up people, and their kNN graph."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.dist.mesh import Mesh
from facetrain.graph.knn import KnnConfig, KnnGraph, knn_graph


def identities(num_rows: int, size: int = 16, seed: int = 0) -> NDArray[np.float32]:
    """Rows of any length around num_rows / 10 centres."""
    generator = np.random.default_rng(seed)
    centre = generator.standard_normal((max(1, num_rows // 10), size))
    rows = centre[generator.integers(0, len(centre), num_rows)]
    rows = rows + 0.6 * generator.standard_normal((num_rows, size))
    return (rows * generator.uniform(0.1, 9, (num_rows, 1))).astype(np.float32)


def slow_graph(embedding: NDArray[Any], num_neighbours: int) -> tuple[Any, Any, Any]:
    """(neighbours, similarity, all similarities) by sorting everything, copies tying at 1."""
    unit = embedding.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    similarity[similarity >= 1 - 2.0**-20] = 1.0
    others = similarity.copy()
    np.fill_diagonal(others, -2.0)
    order = np.argsort(-others, axis=1, kind="stable")[:, :num_neighbours]  # stable: by row
    return order, np.take_along_axis(similarity, order, axis=1), similarity


def build(embedding: NDArray[Any], out_dir: Path, **keys: Any) -> tuple[KnnGraph, dict[str, Any]]:
    return knn_graph(embedding, KnnConfig(**keys), Mesh.single(), out_dir)
