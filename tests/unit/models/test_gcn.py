"""The cleaner's layers against Eqs. 15-16 written as loops over scalars."""

import math

import pytest
import torch
from helpers.class_graphs import SIZES, Table, random_features, random_table
from torch import Tensor

from facetrain.core.errors import ConfigError
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import GCN, Activation, GCNConfig, GCNLayer

FEATURES = 3
CONFIGS = {
    "default": GCNConfig(widths=(4, 2)),
    "sigmoid": GCNConfig(widths=(4, 2), inner_activation="sigmoid"),
    "bias": GCNConfig(widths=(4, 2), bias=True),
    "one hidden layer": GCNConfig(widths=(5,)),
}


def network(config: GCNConfig) -> GCN:
    """Every parameter drawn, biases too."""
    gcn = GCN(config, FEATURES).double()
    with torch.no_grad():
        for place, parameter in enumerate(gcn.parameters()):
            draw = random_features(1, parameter.numel(), "parameter", place)
            parameter.copy_(0.5 * draw.view_as(parameter))
    return gcn


def _activate(value: float, activation: Activation) -> float:
    return max(value, 0.0) if activation == "relu" else 1 / (1 + math.exp(-value))


def slow_layer(
    layer: GCNLayer, h: list[list[float]], table: Table, inner: Activation, outer: Activation | None
) -> list[list[float]]:
    a, b = layer.message_weight.tolist(), layer.message_bias.tolist()
    w, c = layer.weight.tolist(), [0.0] * layer.weight.shape[1]
    if layer.bias is not None:
        c = layer.bias.tolist()
    rows = []
    for i, own in enumerate(h):
        total = [0.0] * len(b)
        for slot, is_real in enumerate(table.mask[i].tolist()):
            if is_real:
                j = int(table.neighbour[i, slot])
                s = float(table.affinity[i, slot])
                for column in range(len(b)):
                    product = sum(h[j][d] * a[d][column] for d in range(len(own)))
                    total[column] += _activate(s * product + b[column], inner)
        both = own + total
        row = [
            sum(x * w[d][column] for d, x in enumerate(both)) + c[column]
            for column in range(len(c))
        ]
        rows.append(row if outer is None else [_activate(x, outer) for x in row])
    return rows


@pytest.mark.parametrize("name", CONFIGS)
def test_equations_15_and_16(name: str) -> None:
    config = CONFIGS[name]
    gcn, table = network(config), random_table()
    features = random_features(sum(SIZES), FEATURES)
    hidden = features.tolist()
    *layers, last = gcn.layers
    for layer in layers:
        assert isinstance(layer, GCNLayer)
        hidden = slow_layer(layer, hidden, table, "relu", "relu")
    assert isinstance(last, GCNLayer)
    probability = slow_layer(last, hidden, table, config.inner_activation, "sigmoid")
    output = gcn(features, NeighbourTable(*table))
    torch.testing.assert_close(output.hidden, torch.tensor(hidden, dtype=torch.float64))
    expected = torch.tensor(probability, dtype=torch.float64)[:, 0]
    assert expected.std() > 0.01
    torch.testing.assert_close(output.clean_probability, expected)
    torch.testing.assert_close(output.logit, expected.logit())


def test_widths_of_the_paper_form() -> None:
    """512 -> 256 -> 128 -> 1: A is as wide as the output, in the last layer 128; W takes both."""
    gcn = GCN(GCNConfig(widths=(256, 128), bias=True), 512)
    shapes = [tuple(parameter.shape) for parameter in gcn.parameters()]
    assert shapes == [
        *((512, 256), (256,), (768, 256), (256,)),
        *((256, 128), (128,), (384, 128), (128,)),
        *((128, 128), (128,), (256, 1), (1,)),
    ]


def test_permuted_nodes_give_permuted_outputs() -> None:
    gcn, table = network(CONFIGS["default"]), random_table()
    features = random_features(sum(SIZES), FEATURES)
    expected = gcn(features, NeighbourTable(*table))
    order = torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(0))
    position = order.argsort()
    neighbour = position[table.neighbour.where(table.mask, 0)[order]]
    permuted = NeighbourTable(neighbour, table.affinity[order], table.mask[order])
    found = gcn(features[order], permuted)
    torch.testing.assert_close(found.logit, expected.logit[order])
    torch.testing.assert_close(found.hidden, expected.hidden[order])


def test_packed_graphs_are_each_graph_alone() -> None:
    """Values and parameter gradients; among them an isolated node."""
    gcn, table = network(CONFIGS["sigmoid"]), random_table()
    features = random_features(sum(SIZES), FEATURES)
    packed = gcn(features, NeighbourTable(*table)).logit
    alone = []
    start = 0
    for size in SIZES:
        rows = slice(start, start + size)
        graph = NeighbourTable(
            table.neighbour[rows] - start, table.affinity[rows], table.mask[rows]
        )
        alone.append(gcn(features[rows], graph).logit)
        start += size
    apart = torch.cat(alone)
    torch.testing.assert_close(packed, apart)

    def gradient(logit: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(logit.sigmoid().square().sum(), tuple(gcn.parameters()))

    for came, wanted in zip(gradient(packed), gradient(apart), strict=True):
        torch.testing.assert_close(came, wanted)


def test_an_isolated_node_sees_only_itself() -> None:
    """One layer by hand: x = (2, 1), W = (1, -3, 5): 2 - 3 = -1, whatever b is."""
    gcn = GCN(GCNConfig(widths=(1,)), 2)
    first, last = gcn.layers
    assert isinstance(first, GCNLayer)
    assert isinstance(last, GCNLayer)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[-1.0], [3.0], [5.0]]))
        first.message_bias.fill_(9.0)
        last.weight.copy_(torch.tensor([[0.5], [7.0]]))
        last.message_bias.fill_(9.0)
    table = Table(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1), torch.zeros(1, 1) > 0)
    output = gcn(torch.tensor([[2.0, 1.0]]), NeighbourTable(*table))
    # relu(-2 + 3) = 1, then 0.5 * 1
    torch.testing.assert_close(output.hidden, torch.tensor([[1.0]]))
    torch.testing.assert_close(output.logit, torch.tensor([0.5]))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_derivatives_of_a_layer_against_finite_differences(activation: Activation) -> None:
    table = random_table((4, 1, 2), k=3)
    graph = NeighbourTable(*table)
    layer = GCNLayer(FEATURES, 2, 2, activation, True).double()
    names = [name for name, _ in layer.named_parameters()]

    def output(h: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        result: Tensor = torch.func.functional_call(layer, named, (h, graph))
        return result

    draws = [
        random_features(1, p.numel(), "layer", place).view_as(p).requires_grad_()
        for place, p in enumerate(layer.parameters())
    ]
    features = random_features(7, FEATURES).requires_grad_()
    assert torch.autograd.gradcheck(output, (features, *draws))
    assert torch.autograd.gradgradcheck(output, (features, *draws))


def test_no_layer_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="widths"):
        GCNConfig(widths=())
