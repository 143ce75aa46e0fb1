"""Fresh noise: who is absent, under which names, and how much it varies."""

import numpy as np
import pytest
from helpers.people import people

from facetrain.clean.fresh_noise import fresh_noise

NUM_DRAWS = 60


def some_people(seed: int = 0) -> np.ndarray:
    """Labels 0, 2, 4, ..., 30 % of them absent."""
    label = 2 * people(seed, 20, (6, 40))[1]
    return np.where(np.random.default_rng(seed).random(len(label)) < 0.7, label, -1)


@pytest.mark.parametrize("seed", range(2))
def test_names_and_absence_in_every_draw(seed: int) -> None:
    label = some_people(seed)
    before, there = label.copy(), label >= 0
    for draw in range(NUM_DRAWS):
        noisy = fresh_noise(label, seed, "test", draw)
        assert noisy.dtype == np.int64
        assert (noisy[~there] == -1).all()
        present = noisy >= 0
        assert set(noisy[present]) <= set(label[there])
        assert present.sum() > 0.25 * there.sum()  # half leave at most, and half of the receivers
    assert np.array_equal(before, label)


def test_a_draw_is_named_by_seed_and_parts() -> None:
    label = some_people()
    first = fresh_noise(label, 3, "pretrain", 5)
    assert np.array_equal(first, fresh_noise(label, 3, "pretrain", 5))
    for other in ((4, "pretrain", 5), (3, "adapter", 5), (3, "pretrain", 6)):
        assert (fresh_noise(label, *other) != first).any()


def test_rates_and_kinds_vary() -> None:
    """From almost none to nearly half; some images leave; some classes lose their majority."""
    label = some_people()
    rates, absent, flips, minority, one_source = [], [], 0, 0, 0
    for draw in range(NUM_DRAWS):
        noisy = fresh_noise(label, 0, draw)
        present, is_clean = noisy >= 0, noisy == label
        rates.append(1 - is_clean[present].mean())
        absent.append(1 - present.sum() / (label >= 0).sum())
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
        noisy = fresh_noise(identity, 0, draw)
        assert (noisy >= 0).any()
        assert set(noisy) <= {-1, *label}
