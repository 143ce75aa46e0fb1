"""What the cleaner answers does not depend on how its work was cut or its images are ordered."""

import numpy as np
import pytest
import torch
from helpers.people import GRAPH, embedded, noisy_people, trained_cleaner

from facetrain.clean import cleaner as module
from facetrain.clean.cleaner import Cleaner, clean_probability, pass_weight, passes
from facetrain.clean.labelled_set import LabelledSet
from facetrain.core.rng import numpy_generator
from facetrain.dist.mesh import Mesh
from facetrain.models.gcn import GCNConfig

MESH = Mesh.single()


def target(seed: int = 7) -> LabelledSet:
    """Sixteen people with noise, five images absent, and three images of one more person."""
    embedding, label, _ = noisy_people(seed, 16)
    label[3:40:8] = -1
    label[[5, 50, 90]] = 16
    return LabelledSet(embedded(embedding), label, GRAPH)


@pytest.mark.parametrize("nodes_at_once", [1, 20, 45])
def test_many_pieces_equal_one(nodes_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = target()
    whole = clean_probability(trained_cleaner(), owner, MESH)
    monkeypatch.setattr(module, "_NODES_AT_ONCE", nodes_at_once)
    assert len(owner.cut(nodes_at_once)) > 2
    pieces = clean_probability(trained_cleaner(), owner, MESH)
    # float32 features of another batch; a logit moves by a few 1e-5
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-4)
    assert whole.std() > 0.2


def test_passes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pass reads what the first answered; an absent image's answer is 1, and so is
    that of a class too small to judge.
    """
    owner, cleaner = target(), trained_cleaner()
    second = clean_probability(cleaner, owner, MESH)
    monkeypatch.setattr(module, "NUM_PASSES", 1)
    first = clean_probability(cleaner, owner, MESH)
    monkeypatch.undo()
    piece = owner.piece(owner.large)
    row = piece.graphs.row
    absent = torch.ones_like(owner.label_of_row, dtype=torch.bool)
    absent[row] = False
    assert int(absent.sum()) == 5 + 3
    assert (first[absent] == 1).all()
    assert (second[absent] == 1).all()
    with torch.no_grad():
        expected = cleaner(piece.features(owner.ones()), piece.graph()[0]).clean_probability
        torch.testing.assert_close(first[row], expected, rtol=0, atol=1e-6)
        weight = owner.ones()
        weight[row] = first[row].clamp(0.0025, 0.9975)
        expected = cleaner(piece.features(weight), piece.graph()[0]).clean_probability
        features = list(passes(cleaner, piece))
        torch.testing.assert_close(features[0], piece.features(owner.ones()))
        torch.testing.assert_close(features[1], piece.features(weight))
        assert len(features) == 2
    torch.testing.assert_close(second[row], expected, rtol=0, atol=1e-5)
    assert (first - second).abs().max() > 0.02


@pytest.mark.parametrize("seed", range(2))
def test_permuted_images_permute_answers(seed: int) -> None:
    """With one scale: its own is drawn from random pairs, which a permutation changes."""
    embedding, label, _ = noisy_people(seed, 16)
    order = numpy_generator(seed, "order").permutation(len(label))
    name = 3 * numpy_generator(seed, "names").permutation(16)
    owners = [
        LabelledSet(embedded(embedding), label, GRAPH),
        LabelledSet(embedded(embedding[order]), name[label[order]], GRAPH),
    ]
    owners[1].scale = owners[0].scale
    first, second = (clean_probability(trained_cleaner(), owner, MESH) for owner in owners)
    torch.testing.assert_close(second, first[torch.from_numpy(order)], rtol=0, atol=1e-3)


def test_a_weight_is_never_certain() -> None:
    """A weight of 0 could not come back, and one of 1 would say: not yet judged."""
    owner = target()
    row = torch.tensor([0, 1, 2])
    weight = pass_weight(owner, row, torch.tensor([0.0, 1.0, 0.3]))
    torch.testing.assert_close(weight[:3], torch.tensor([0.0025, 0.9975, 0.3]))
    assert (weight[3:] == 1).all()


def test_standardised_by_the_source_alone() -> None:
    """Mean and spread are the first features'; what never varied is left as it is."""
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    cleaner = Cleaner(GCNConfig(widths=(4,)), features)
    assert cleaner.mean.tolist() == [2, 5]
    np.testing.assert_allclose(cleaner.spread, [2**0.5, 1])


@pytest.mark.parametrize("images", [1, 3, 4])
def test_a_set_of_one_class(images: int) -> None:
    owner = LabelledSet(embedded(np.ones((images, 24), np.float32)), np.full(images, 4), GRAPH)
    answer = clean_probability(trained_cleaner(), owner, MESH)
    assert ((answer > 0) & (answer < 1)).all() == (images >= 4)
    assert (answer == 1).all() == (images < 4)
