"""Class graphs against numpy, one class at a time."""

import numpy as np
import pytest
import torch
from helpers.people import random_unit

from facetrain.core.rng import numpy_generator
from facetrain.graph.class_graphs import (
    ClassGraphs,
    Neighbourhoods,
    class_neighbours,
    group_by_class,
    neighbourhoods,
)

SIZES = (3, 300, 1, 40, 2, 41, 1, 38, 3)


def shuffled(sizes: tuple[int, ...] = SIZES, size: int = 8) -> tuple[torch.Tensor, ClassGraphs]:
    """Unit embeddings (N, D) by node, and classes of these sizes."""
    generator = numpy_generator(0, "class graphs")
    label = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    graphs = group_by_class(label)
    return torch.from_numpy(random_unit(generator, len(label), size)), graphs


def test_groups_by_hand() -> None:
    """Label 3 has rows 1 and 4, label 7 rows 0, 3 and 5; row 2 has none; 0-2 and 4-6 are gaps."""
    graphs = group_by_class(np.array([7, 3, -1, 7, 3, 7]))
    assert graphs.class_id.tolist() == [3, 7]
    assert graphs.row.tolist() == [1, 4, 0, 3, 5]
    assert graphs.label.tolist() == [0, 0, 1, 1, 1]
    assert graphs.start.tolist() == [0, 2, 5]
    assert graphs.size.tolist() == [2, 3]
    value = torch.tensor([4.0, 2.0, -1.0, -2.0, -3.0])
    assert graphs.sum(value).tolist() == [6, -6]
    assert graphs.max(value).tolist() == [4, 0]


def test_subset_in_the_order_asked_for() -> None:
    graphs = group_by_class(np.array([5, 2, 9, 5, 2, 9, 9]))  # 2: 1, 4; 5: 0, 3; 9: 2, 5, 6
    subset = graphs.subset(torch.tensor([2, 0]))
    assert subset.class_id.tolist() == [9, 2]
    assert subset.row.tolist() == [2, 5, 6, 1, 4]
    assert subset.label.tolist() == [0, 0, 0, 1, 1]
    assert subset.start.tolist() == [0, 3, 5]
    empty = graphs.subset(torch.tensor([], dtype=torch.int64))
    assert (empty.num_nodes, empty.num_classes, empty.start.tolist()) == (0, 0, [0])


@pytest.mark.parametrize("max_pairs", [1, 50, 700, 10_000, 1 << 22])
def test_neighbourhoods_against_argsort(max_pairs: int) -> None:
    """From one row a piece (300 images against 1 pair) to all classes of alike sizes in one."""
    unit_embedding, graphs = shuffled()
    unit = unit_embedding.numpy().astype(np.float64)
    seen = np.zeros(graphs.num_nodes, np.int64)
    pieces = list(neighbourhoods(unit_embedding, graphs, max_pairs))
    for piece in pieces:
        count, width = piece.similarity.shape
        # A row is never cut, and every class has at least one row in a piece.
        assert count * width <= max(max_pairs, width)
        np.add.at(seen, piece.node.numpy(), 1)
        for i, node in enumerate(piece.node.tolist()):
            others = np.flatnonzero(graphs.label.numpy() == int(graphs.label[node]))
            others = others[others != node]
            cosine = unit[others] @ unit[node]
            order = np.argsort(-cosine, kind="stable")
            real = len(others)
            assert piece.neighbour[i, :real].tolist() == others[order].tolist()
            # float32 products of unit rows
            np.testing.assert_allclose(piece.similarity[i, :real], cosine[order], atol=1e-6)
            assert (piece.similarity[i, real:] == -torch.inf).all()
    assert (seen == 1).all()
    if max_pairs == 1 << 22:
        assert len(pieces) <= 5  # sizes 1-3, 38-41 and 300 stand apart, and nothing is cut


def test_equal_similarities_stand_in_the_order_of_nodes() -> None:
    graphs = group_by_class(np.zeros(5, np.int64))
    same = torch.nn.functional.normalize(torch.ones(5, 4))
    (piece,) = neighbourhoods(same, graphs)
    for node, found in zip(piece.node.tolist(), piece.neighbour[:, :4].tolist(), strict=True):
        assert found == [i for i in range(5) if i != node]


@pytest.mark.parametrize("most_kept", [0, 1 << 23], ids=["made anew", "kept"])
def test_neighbourhoods_gone_through_twice(most_kept: int) -> None:
    unit_embedding, graphs = shuffled()
    found = Neighbourhoods(unit_embedding, graphs, most_kept)
    for _ in range(2):
        expected = neighbourhoods(unit_embedding, graphs)
        for one, other in zip(found, expected, strict=True):
            for name in ("node", "neighbour", "similarity"):
                assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("num_neighbours", [1, 5, 39, 1000])
def test_class_neighbours_against_argsort(num_neighbours: int) -> None:
    unit_embedding, graphs = shuffled()
    pieces = neighbourhoods(unit_embedding, graphs, 2000)
    neighbour, similarity = class_neighbours(pieces, graphs, num_neighbours)
    unit, label = unit_embedding.numpy().astype(np.float64), graphs.label.numpy()
    assert neighbour.shape == similarity.shape == (len(unit), min(num_neighbours, 299))
    for node in range(len(unit)):
        others = np.flatnonzero(label == label[node])
        others = others[others != node]
        cosine = unit[others] @ unit[node]
        nearest = np.argsort(-cosine, kind="stable")[:num_neighbours]
        real = len(nearest)
        assert neighbour[node, :real].tolist() == others[nearest].tolist()
        np.testing.assert_allclose(similarity[node, :real], cosine[nearest], atol=1e-6)
        assert (neighbour[node, real:] == -1).all()
        assert (similarity[node, real:] == 0).all()


def test_classes_of_one_image_have_no_neighbours() -> None:
    unit_embedding, graphs = shuffled((1, 1, 1))
    neighbour, similarity = class_neighbours(Neighbourhoods(unit_embedding, graphs), graphs, 20)
    assert neighbour.tolist() == [[-1]] * 3
    assert similarity.tolist() == [[0]] * 3
