"""The kNN graph on a CUDA device against a sort in float64, in float32 and in half precision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facetrain.core.rng import numpy_generator
from facetrain.dist.mesh import Mesh
from facetrain.graph.knn import KnnConfig, knn_graph
from facetrain.graph.knn_rows import UnitRows
from facetrain.graph.knn_torch import Tiles, TorchExact

pytestmark = pytest.mark.gpu

NUM_ROWS, K = 3001, 20


def identities() -> Any:
    generator = numpy_generator(0, "gpu knn")
    centre = generator.standard_normal((NUM_ROWS // 10, 64))
    rows = centre[generator.integers(0, len(centre), NUM_ROWS)]
    rows = (rows + 0.6 * generator.standard_normal(rows.shape)).astype(np.float32)
    rows[[5, 700, 1400, 2100, 2800]] = rows[5]
    return rows


def expected(unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(similarity of all pairs, the K largest of others) of unit rows, in float64."""
    similarity = unit.double() @ unit.double().T
    others = similarity.clone().fill_diagonal_(-2.0)
    return similarity, others.topk(K).values


@pytest.mark.parametrize("tiles", [None, Tiles(1000, 700, 8), Tiles(64, 4096, 64)])
@pytest.mark.parametrize(
    # A product of two float16 is exact in float32, so both types only round their sums.
    "dtype",
    ["float32", "float16"],
)
def test_exact_of_the_rows_it_reads(tiles: Tiles | None, dtype: str) -> None:
    rows = UnitRows(identities().astype(dtype), torch.device("cuda"))
    neighbours, similarity = TorchExact(rows, K, tiles).search(np.arange(NUM_ROWS))
    unit = rows.take(np.arange(NUM_ROWS))
    assert unit.dtype == getattr(torch, dtype)
    everything, largest = expected(unit.cpu())
    # Half-precision unit rows have lengths within 5e-4 of 1, and cosines are cut at 1.
    torch.testing.assert_close(similarity.double(), largest.clamp(max=1), rtol=0, atol=5e-6)
    its_own = everything.gather(1, neighbours).clamp(max=1)
    torch.testing.assert_close(similarity.double(), its_own, rtol=0, atol=5e-6)
    assert (neighbours != torch.arange(NUM_ROWS)[:, None]).all()
    assert neighbours[5, :4].tolist() == [700, 1400, 2100, 2800]


@pytest.mark.parametrize("keys", [{"backend": "torch"}, {"backend": "faiss"}, {}])
def test_the_same_graph_as_on_the_cpu(tmp_path: Path, keys: dict[str, Any]) -> None:
    config = KnnConfig(num_neighbours=K, index="exact", block_size=900, **keys)
    if keys.get("backend") == "faiss":
        pytest.importorskip("faiss")
    found, _ = knn_graph(identities(), config, Mesh.single("cuda"), tmp_path / "cuda")
    whole, _ = knn_graph(
        identities(),
        KnnConfig(num_neighbours=K, index="exact", backend="torch"),
        Mesh.single("cpu"),
        tmp_path / "cpu",
    )
    np.testing.assert_allclose(found.similarity, whole.similarity, rtol=0, atol=5e-6)
    # Near ties within rounding may swap.
    assert (found.neighbours == whole.neighbours).mean() > 0.999
