"""Which of a noisy set's own images are believed."""

import numpy as np
import pytest
from clean_parts import GRAPH, embedded, noisy_people, people

from facetrain.clean import self_source
from facetrain.clean.self_source import most_consistent
from facetrain.clean.training import labelled_set
from facetrain.core.rng import numpy_generator


def believed_in(embedding: np.ndarray, label: np.ndarray) -> np.ndarray:
    return most_consistent(labelled_set(GRAPH, embedded(embedding), label))


@pytest.mark.parametrize("seed", range(4))
def test_hardly_any_noise_is_believed(seed: int) -> None:
    embedding, label, is_clean = noisy_people(seed, 30, 0.3)
    trusted = believed_in(embedding, label)
    assert 0.15 < trusted.mean() < 0.7
    assert (~is_clean[trusted]).mean() < 0.06
    # The same count of images drawn at random holds the set's 30 %.
    chosen = numpy_generator(seed, "control").permutation(len(label))[: trusted.sum()]
    assert (~is_clean[chosen]).mean() > 0.2


def test_the_purer_half_of_the_classes() -> None:
    """Class i of 8 images holds i strangers: shares 1, 7/8, 6/8, 5/8 of i = 0..3; the best two."""
    embedding, identity = people(2, 4, (8, 8))
    strangers = people(3, 6, (1, 1))[0]
    label, at = identity.copy(), 0
    for name in range(4):
        rows = np.flatnonzero(identity == name)[:name]
        embedding[rows] = strangers[at : at + name]
        at += name
    replaced = np.zeros(len(label), np.bool_)
    for name in range(4):
        replaced[np.flatnonzero(identity == name)[:name]] = True
    trusted = believed_in(embedding, label)
    assert np.array_equal(trusted, (label <= 2) & ~replaced)  # at least the median of four


@pytest.mark.parametrize("seed", range(3))
def test_a_class_of_two_halves_is_not_believed_whole(seed: int) -> None:
    """Six of one person and six of another, near enough to their common centre."""
    embedding, identity = people(seed, 9, (12, 12))
    other, _ = people(seed + 50, 1, (6, 6))
    halves = np.flatnonzero(identity == 0)[:6]
    length = np.linalg.norm(embedding[halves], axis=1, keepdims=True)
    embedding[halves] = other / np.linalg.norm(other, axis=1, keepdims=True) * length
    trusted = believed_in(embedding, identity)
    assert trusted[identity == 0].sum() <= 6
    assert trusted[identity != 0].any()


def test_nobody_to_believe() -> None:
    """Classes of fewer than four, and an absent class of many."""
    embedding, identity = people(0, 6, (5, 5))
    few = np.where(np.arange(len(identity)) % 2 == 0, identity, -1)
    few[identity == 0] = -1
    for name in range(6):
        few[np.flatnonzero(few == name)[3:]] = -1
    assert not believed_in(embedding, few).any()
    whole = believed_in(embedding, np.where(identity == 0, -1, identity))
    assert whole.any()
    assert not whole[identity == 0].any()


def test_many_pieces_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, label, _ = noisy_people(0, 20)
    owner = labelled_set(GRAPH, embedded(embedding), label)
    whole = most_consistent(owner)
    monkeypatch.setattr(self_source, "_NODES_AT_ONCE", 30)
    assert len(owner.cut(30)) > 4
    assert np.array_equal(most_consistent(owner), whole)
