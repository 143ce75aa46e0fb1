"""The graph on a GPU is the graph on a CPU, to the second derivative."""

import pytest
import torch
from helpers.class_graphs import random_features, random_table, two_derivatives
from torch import Tensor

from facetrain.graph import neighbour_table
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import GCN, Activation, GCNConfig

pytestmark = pytest.mark.gpu

SIZES = (1, 40, 3, 25, 2, 60)


def relative_error(found: Tensor, expected: Tensor) -> float:
    difference = (found.cpu().double() - expected.cpu().double()).norm()
    return float(difference / expected.double().norm().cpu())


@pytest.mark.parametrize("chunk_values", [3000, 2**27])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize(
    # Rounding of each type; the device adds in another order.
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5)],
    ids=["float64", "float32"],
)
def test_the_same_as_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    activation: Activation,
    dtype: torch.dtype,
    tolerance: float,
    chunk_values: int,
) -> None:
    monkeypatch.setitem(neighbour_table._CHUNK_VALUES, "cuda", chunk_values)
    table = random_table(SIZES, k=20, dtype=dtype)

    def values(device: str) -> list[Tensor]:
        graph = NeighbourTable(*(part.to(device) for part in table))
        message = random_features(sum(SIZES), 32, "message").to(device, dtype).requires_grad_()
        bias = (0.2 * random_features(1, 32, "bias")[0]).to(device, dtype).requires_grad_()
        total = graph.aggregate(message, bias, activation)
        return [total.detach(), *two_derivatives(total, message, bias)]

    for came, wanted in zip(values("cuda"), values("cpu"), strict=True):
        assert relative_error(came, wanted) < tolerance


def test_the_network_is_the_same_as_on_the_cpu() -> None:
    table = random_table(SIZES, k=20)
    features = random_features(sum(SIZES), 16)
    gcn = GCN(GCNConfig(), 16).double()
    expected = gcn(features, NeighbourTable(*table)).logit
    found = gcn.cuda()(features.cuda(), NeighbourTable(*(part.cuda() for part in table))).logit
    assert relative_error(found.detach(), expected.detach()) < 1e-12
