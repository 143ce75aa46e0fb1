"""The native graph against slow loops, to the second derivative, in chunks and whole."""

from typing import Any

import pytest
import torch
from helpers.class_graphs import Table, random_features, random_table, slow_sum, two_derivatives

from facetrain.graph import neighbour_table
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import Activation

ACTIVATIONS: tuple[Activation, ...] = ("relu", "sigmoid")
# Values a chunk may hold: one node, a few nodes of mixed degree, everything.
CHUNKS = (1, 60, 2**18)
WIDTH = 4


@pytest.fixture(params=CHUNKS)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(neighbour_table._CHUNK_VALUES, "cpu", request.param)
    return int(request.param)


def inputs(table: Table) -> tuple[torch.Tensor, torch.Tensor]:
    message = random_features(len(table.mask), WIDTH, "message").requires_grad_()
    return message, (0.2 * random_features(1, WIDTH, "bias")[0]).requires_grad_()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.usefixtures("chunk")
def test_the_sum_and_its_two_derivatives_are_those_of_slow_loops(activation: Activation) -> None:
    table = random_table()
    message, bias = inputs(table)
    expected = slow_sum(table, message, bias, activation)
    found = NeighbourTable(*table).aggregate(message, bias, activation)
    torch.testing.assert_close(found, expected)  # float64 rounding
    expected_derivatives = two_derivatives(expected, message, bias)
    for came, wanted in zip(
        two_derivatives(found, message, bias), expected_derivatives, strict=True
    ):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(came, wanted)
    with torch.no_grad():
        torch.testing.assert_close(
            NeighbourTable(*table).aggregate(message, bias, activation), expected
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_against_finite_differences(activation: Activation) -> None:
    table = random_table((4, 1, 3), k=3)
    graph = NeighbourTable(*table)

    def total(message: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return graph.aggregate(message, bias, activation)

    assert torch.autograd.gradcheck(total, inputs(table))
    assert torch.autograd.gradgradcheck(total, inputs(table))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.usefixtures("chunk")
def test_padding_contributes_nothing(activation: Activation) -> None:
    """Wider by slots of anything, before, between and after the real ones: the same bits."""
    table = random_table()
    message, bias = inputs(table)
    rows, k = table.mask.shape
    slots = [1, 3, 4, 6, 8][:k]
    neighbour = torch.full((rows, 10), -7)
    affinity = torch.full((rows, 10), float("nan"), dtype=torch.float64)
    mask = torch.zeros(rows, 10, dtype=torch.bool)
    neighbour[:, slots], mask[:, slots] = table.neighbour, table.mask
    affinity[:, slots] = table.affinity.masked_fill(~table.mask, float("inf"))
    expected = NeighbourTable(*table).aggregate(message, bias, activation)
    found = NeighbourTable(neighbour, affinity, mask).aggregate(message, bias, activation)
    assert torch.equal(found, expected)
    expected_gradient = torch.autograd.grad(expected.sum(), (message, bias))
    for came, wanted in zip(
        torch.autograd.grad(found.sum(), (message, bias)), expected_gradient, strict=True
    ):
        assert torch.equal(came, wanted)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_neighbour_of_no_affinity_still_counts(activation: Activation) -> None:
    """Eq. 16 adds activation(b) for it: relu(0.5) = 0.5, sigmoid(0) = 0.5, two neighbours."""
    bias = torch.tensor([0.5 if activation == "relu" else 0.0])
    table = Table(torch.tensor([[1, 2]]).expand(3, 2), torch.zeros(3, 2), torch.ones(3, 2) > 0)
    found = NeighbourTable(*table).aggregate(torch.randn(3, 1), bias, activation)
    torch.testing.assert_close(found, torch.ones(3, 1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "k"), [(3, 2), (3, 0), (0, 2)])
def test_nodes_without_neighbours_receive_exactly_nothing(
    activation: Activation, rows: int, k: int
) -> None:
    empty = Table(
        torch.zeros(rows, k, dtype=torch.long),
        torch.zeros(rows, k, dtype=torch.float64),
        torch.zeros(rows, k, dtype=torch.bool),
    )
    message, bias = inputs(empty)
    found = NeighbourTable(*empty).aggregate(message, bias, activation)
    assert torch.equal(found, torch.zeros(rows, WIDTH, dtype=torch.float64))


def test_relu_keeps_no_edge_for_the_backward_pass() -> None:
    """Saved for any order of derivative: the messages and the bias, not (N, K, A) values."""
    table = random_table()
    message, bias = inputs(table)
    saved: list[int] = []

    def pack(value: Any) -> Any:
        saved.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        total = NeighbourTable(*table).aggregate(message, bias, "relu")
        torch.autograd.grad(total.sum(), message, create_graph=True)
    assert max(saved) == message.numel()
