"""Pieces of a labelled set, its cuts, and the canonical frame."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.people import GRAPH, embedded, noisy_people, people, random_unit, rotation

from facetrain.clean.cleaner import Cleaner
from facetrain.clean.labelled_set import LabelledSet, NodeInput, canonical_frame
from facetrain.core.rng import numpy_generator, torch_generator
from facetrain.graph.class_graphs import group_by_class
from facetrain.graph.neighbour_table import NeighbourTable

ANY = torch.linspace(-1, 1, 5)


def of_sizes(*sizes: int) -> LabelledSet:
    label = np.repeat(np.arange(len(sizes)), sizes)
    embedding = random_unit(numpy_generator(0, "sizes"), len(label), 8)
    return LabelledSet(embedded(embedding), label, GRAPH)


def aggregate(graph: Any, num_nodes: int) -> torch.Tensor:
    """What the nodes receive from random messages, each node's own at any place: (N, 5)."""
    message = torch.randn(num_nodes, 5, generator=torch_generator(0, "message"))
    found: torch.Tensor = graph.aggregate(message, ANY, "relu")
    return found


def test_classes_of_a_piece_equal_those_alone() -> None:
    embedding, label, _ = noisy_people(0, 9)
    label[label == 4] = np.where(np.arange((label == 4).sum()) == 0, 4, -1)  # one image of 4
    owner = LabelledSet(embedded(embedding), label, GRAPH)
    piece = owner.piece(torch.tensor([7, 2, 4, 0, 8]))
    assert piece.graphs.class_id[2] == 4
    for classes in ([1], [4, 0, 2], [2], [3, 1, 0, 4, 2]):
        graph, node = piece.graph(torch.tensor(classes))
        alone = owner.piece(torch.tensor([[7, 2, 4, 0, 8][place] for place in classes]))
        assert piece.graphs.row[node].tolist() == alone.graphs.row.tolist()
        expected = aggregate(alone.graph()[0], len(node))
        torch.testing.assert_close(aggregate(graph, len(node)), expected, rtol=0, atol=1e-6)
        assert (expected.abs().max() > 1) == (classes != [2])  # only one image gets no message


def test_a_piece_is_built_from_plain_neighbours() -> None:
    """The whole set's graph against each image's nearest of its class and Eq. 16's shares."""
    embedding, label, _ = noisy_people(1, 6)
    piece = LabelledSet(embedded(embedding), label, GRAPH).piece()
    graph, node = piece.graph()
    assert isinstance(graph, NeighbourTable)
    message = torch.randn(len(node), 5, generator=torch_generator(0, "message"))
    found = graph.aggregate(message, ANY, "relu")
    unit, classes = piece.unit_embedding.double(), piece.graphs.label
    for i in range(len(node)):
        others = torch.nonzero((classes == classes[i]) & (node != i))[:, 0]
        cosine = unit[others] @ unit[i]
        nearest = cosine.argsort(descending=True)[: GRAPH.num_neighbours]
        share = cosine[nearest].clamp(min=0)
        share = share / share.sum() if share.sum() > 0 else share
        expected = torch.relu(share[:, None] * message[others[nearest]] + ANY).sum(0)
        torch.testing.assert_close(found[i], expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("max_nodes", [1, 4, 10, 14, 25, 1000])
@pytest.mark.parametrize(
    "sizes", [(5, 9, 5), (9, 2, 8, 1, 1), (25, 3, 2), (1, 30, 1, 30), (4,) * 9, (1,)]
)
def test_cut_covers_each_large_class_once_and_keeps_the_limit(
    sizes: tuple[int, ...], max_nodes: int
) -> None:
    runs = of_sizes(*sizes).cut(max_nodes)
    large = [place for place, size in enumerate(sizes) if size >= 4]
    assert [place for run in runs for place in run.tolist()] == large
    count = [[sizes[place] for place in run.tolist()] for run in runs]
    assert all(sum(images[:-1]) < max_nodes for images in count)
    # Few runs: two in turn have more than the limit.
    assert all(sum(a + b) > max_nodes for a, b in itertools.pairwise(count))


def test_canonical_frame_keeps_cosines_and_turns_the_mean_to_the_first_axis() -> None:
    generator = numpy_generator(0, "frame")
    graphs = group_by_class(np.repeat(np.arange(6), [1, 2, 3, 10, 40, 5]))
    unit = torch.from_numpy(random_unit(generator, graphs.num_nodes, 16))
    found = canonical_frame(unit, graphs)
    assert not torch.allclose(found, unit, atol=0.1)
    alike = graphs.label[:, None] == graphs.label
    torch.testing.assert_close((found @ found.T)[alike], (unit @ unit.T)[alike], rtol=0, atol=1e-5)
    mean = torch.nn.functional.normalize(graphs.sum(found))
    expected = torch.zeros(6, 16)
    expected[:, 0] = 1
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_turning_the_space_keeps_the_first_coordinate_and_inner_products(seed: int) -> None:
    """What is orthogonal to the mean may turn: the frame fixes one axis, not all."""
    graphs = group_by_class(np.repeat(np.arange(4), [1, 3, 12, 30]))
    unit = torch.from_numpy(random_unit(numpy_generator(seed, "frame"), graphs.num_nodes, 16))
    turned = unit @ torch.from_numpy(rotation(seed, 16))
    before, after = canonical_frame(unit, graphs), canonical_frame(turned, graphs)
    assert (unit[:, 0] - turned[:, 0]).abs().max() > 0.2  # without the frame it would not stay
    torch.testing.assert_close(before[:, 0], after[:, 0], rtol=0, atol=1e-5)
    alike = graphs.label[:, None] == graphs.label
    products = (before @ before.T)[alike], (after @ after.T)[alike]
    torch.testing.assert_close(*products, rtol=0, atol=1e-5)


@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_mean_on_the_axis_stays_there(apart: float, side: float) -> None:
    """Where mean and axis differ by little more than rounding, so does the reflection's normal."""
    generator = numpy_generator(0, "axis")
    unit = random_unit(generator, 50, 8)
    unit[:, 0] = side * (0.3 + np.abs(unit[:, 0]))
    unit[:, 1:] -= unit[:, 1:].mean(0)
    unit[:, 1] += apart
    images = torch.nn.functional.normalize(torch.from_numpy(unit))
    graphs = group_by_class(np.zeros(50, np.int64))
    found = canonical_frame(images, graphs)
    mean = torch.nn.functional.normalize(graphs.sum(found))[0]
    assert mean[0] == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found @ found.T, images @ images.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("node_input", ["relational", "canonical", "embedding"])
def test_dgl_gives_the_same_logits(node_input: NodeInput) -> None:
    pytest.importorskip("dgl")
    embedding, label, _ = noisy_people(0, 7)
    label[label == 2] = np.where(np.arange((label == 2).sum()) == 0, 2, -1)
    images, logits = embedded(embedding), []
    for backend in ("native", "dgl"):
        update = {"backend": backend, "node_input": node_input}
        piece = LabelledSet(images, label, GRAPH.model_copy(update=update)).piece()
        features = piece.features(piece.owner.ones())
        torch.manual_seed(0)
        cleaner = Cleaner(GRAPH.gcn, features)
        graph, node = piece.graph(torch.tensor([5, 2, 0]))
        logits.append(
            (cleaner(features, piece.graph()[0]).logit, cleaner(features[node], graph).logit)
        )
    for native, dgl in zip(*logits, strict=True):
        # The same float32 sums, in another order.
        torch.testing.assert_close(dgl, native, rtol=1e-4, atol=1e-4)
        assert native.std() > 0.05


def test_node_inputs() -> None:
    """`embedding` is the centred embedding itself, `canonical` the same in its frame."""
    embedding, label = people(0, 5)
    images = embedded(embedding)
    for node_input in ("embedding", "canonical"):
        config = GRAPH.model_copy(update={"node_input": node_input})
        piece = LabelledSet(images, label, config).piece()
        found = piece.features(piece.owner.ones())
        expected = images.rows(piece.graphs.row)
        if node_input == "canonical":
            expected = canonical_frame(expected, piece.graphs)
        assert torch.equal(found, expected)
