"""Fresh noise: who is absent, what is true, and how much it varies."""

import numpy as np
import pytest
from helpers.people import people

from facetrain.clean.fresh_noise import fresh_noise

NUM_DRAWS = 60


def trusted_people(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0, 2, 4, ... and which of them are believed: 70 %."""
    label = 2 * people(seed, 20, (6, 40))[1]
    return label, np.random.default_rng(seed).random(len(label)) < 0.7


@pytest.mark.parametrize("seed", range(2))
def test_truth_and_absence_in_every_draw(seed: int) -> None:
    label, trusted = trusted_people(seed)
    before = label.copy(), trusted.copy()
    for draw in range(NUM_DRAWS):
        noisy, is_clean = fresh_noise(label, trusted, seed, "test", draw)
        assert (noisy.dtype, is_clean.dtype) == (np.int64, np.bool_)
        assert (noisy[~trusted] == -1).all()
        present = noisy >= 0
        assert np.array_equal(is_clean[present], (noisy == label)[present])
        assert set(noisy[present]) <= set(label[trusted])
        assert present.sum() > 0.25 * trusted.sum()  # half leave at most, and half of the receivers
    assert np.array_equal(before[0], label)
    assert np.array_equal(before[1], trusted)


def test_a_draw_is_named_by_seed_and_parts() -> None:
    label, trusted = trusted_people()
    first = fresh_noise(label, trusted, 3, "pretrain", 5)
    again = fresh_noise(label, trusted, 3, "pretrain", 5)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    for other in ((4, "pretrain", 5), (3, "adapter", 5), (3, "pretrain", 6)):
        assert (fresh_noise(label, trusted, *other)[0] != first[0]).any()


def test_rates_and_kinds_vary() -> None:
    """From almost none to nearly half; some images leave; some classes lose their majority."""
    label, trusted = trusted_people()
    rates, absent, flips, minority, one_source = [], [], 0, 0, 0
    for draw in range(NUM_DRAWS):
        noisy, is_clean = fresh_noise(label, trusted, 0, draw)
        present = noisy >= 0
        rates.append(1 - is_clean[present].mean())
        absent.append(1 - present.sum() / trusted.sum())
        for name in np.unique(noisy[present]):
            own = noisy == name
            sources, count = np.unique(label[own & ~is_clean], return_counts=True)
            minority += count.max(initial=0) > (own & is_clean).sum() > 0
            one_source += len(sources) == 1 and count[0] >= 2
            flips += len(sources) >= 4
    assert min(rates) < 0.08
    assert 0.35 < max(rates) < 0.6
    assert np.std(rates) > 0.08
    assert min(absent) == 0
    assert 0.1 < max(absent) < 0.7
    assert flips > 20
    assert one_source > 10
    assert minority > 0


@pytest.mark.parametrize(
    "label",
    [[0], [0, 1], [5, 5, 5], [0, 0, 1, 1], [0] * 4 + [1] * 4, [9, 1, 1, 4, 4, 4], list(range(12))],
    ids=str,
)
def test_tiny_sets_get_what_they_bear(label: list[int]) -> None:
    identity = np.array(label)
    for draw in range(20):
        noisy, is_clean = fresh_noise(identity, np.ones(len(label), np.bool_), 0, draw)
        present = noisy >= 0
        assert present.any()
        assert np.array_equal(is_clean[present], (noisy == identity)[present])
