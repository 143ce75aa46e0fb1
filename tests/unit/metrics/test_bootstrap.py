"""Bootstrap draws against drawing pairs one by one, and intervals against their promise."""

import numpy as np
import pytest

from facetrain.metrics.bootstrap import (
    _RunningWeight,
    accuracy_draws,
    identity_draws,
    interval,
    tar_draws,
)
from facetrain.metrics.verification import fold_accuracy, fold_of_pairs, tar_at_far


def pairs(generator, num_pairs=400, gap=0.5):
    """Overlapping distances, half of one person."""
    same = generator.permutation(np.arange(num_pairs) % 2 == 0)
    distance = generator.normal(np.where(same, 1.2 - gap / 2, 1.2 + gap / 2), 0.35)
    return np.clip(distance, 0, 3.9), same


def test_accuracy_draws_are_those_of_drawn_pairs():
    generator = np.random.default_rng(0)
    distance, same = pairs(generator, 100)
    fold = fold_of_pairs(same, 5)
    slow = []
    for _ in range(1500):
        drawn = np.concatenate([generator.choice(np.flatnonzero(fold == k), 20) for k in range(5)])
        slow.append(fold_accuracy(distance[drawn], same[drawn], 5)[0].mean())
    fast = accuracy_draws(distance, same, 5, 1500, generator)
    # Two samples of 1500: means differ by less than four standard errors, quantiles by two steps.
    error = np.std(slow) * np.sqrt(2 / 1500)
    assert abs(np.mean(fast) - np.mean(slow)) < 4 * error
    assert np.quantile(fast, [0.025, 0.975]) == pytest.approx(
        np.quantile(slow, [0.025, 0.975]), abs=0.02
    )


def test_tar_draws_are_those_of_drawn_pairs():
    generator = np.random.default_rng(1)
    distance, same = pairs(generator, 400)
    genuine, impostor = distance[same], distance[~same]
    slow = []
    for _ in range(3000):
        drawn = np.concatenate([generator.choice(genuine, 200), generator.choice(impostor, 200)])
        slow.append(tar_at_far(drawn, np.arange(400) < 200)["1e-1"])
    fast = tar_draws(distance, same, 3000, generator)
    error = np.std(slow) * np.sqrt(2 / 3000)
    assert abs(np.mean(fast["1e-1"]) - np.mean(slow)) < 4 * error
    assert np.std(fast["1e-1"]) == pytest.approx(np.std(slow), rel=0.08)  # 4 standard errors
    assert interval(fast["1e-3"]) is None  # 200 impostors cannot tell


def test_an_interval_holds_the_truth_as_often_as_it_says():
    # 200 sets drawn anew; the truth at FAR 0.1 from a very large one.
    generator = np.random.default_rng(2)
    truth = tar_at_far(*pairs(generator, 400_000))["1e-1"]
    hits = 0
    for _ in range(200):
        draws = tar_draws(*pairs(generator, 1000), 300, generator)["1e-1"]
        low, high = interval(draws)
        hits += low <= truth <= high
    assert 180 <= hits <= 199  # 190 expected; the binomial spread is 3


def test_identities_drawn_once_each_give_the_set_itself():
    class Once:
        def multinomial(self, n, p):
            return np.ones(n, np.int64)

    generator = np.random.default_rng(3)
    distance, same = pairs(generator, 400)
    identity = generator.integers(0, 40, (2, 400))
    identity[1, same] = identity[0, same]
    accuracy, tar = identity_draws(distance, same, identity, 10, 1, Once())
    assert accuracy[0] == pytest.approx(fold_accuracy(distance, same, 10)[0].mean(), abs=1e-12)
    assert tar["1e-1"][0] == pytest.approx(tar_at_far(distance, same)["1e-1"], abs=1e-12)
    assert np.isnan(tar["1e-3"][0])


def test_an_identity_drawn_twice_brings_its_pairs_twice():
    # Two identities of three are drawn: 0 twice, 2 once. Genuine pairs of 0 count twice, of 2
    # once; impostor pairs 0-2 twice; pairs with 1 not at all.
    class Draw:
        def multinomial(self, n, p):
            assert n == 3
            return np.array([2, 0, 1])

    listed = [(0.1, 0, 0), (0.3, 1, 1), (0.5, 2, 2), (0.2, 0, 1), (0.4, 0, 2), (0.9, 1, 2)]
    listed += [(0.6 + i / 100, 0, 2) for i in range(9)]  # so that FAR 0.1 is measurable
    distance = np.array([d for d, _, _ in listed])
    identity = np.array([[a, b] for _, a, b in listed]).T
    same = identity[0] == identity[1]
    _, tar = identity_draws(distance, same, identity, None, 1, Draw())
    # Impostors: 0.4, 0.6, ..., each twice, 20 in all; two may be accepted: the threshold is 0.6.
    # Genuine below it: 0.1 twice and 0.5 once: all of the three.
    assert tar["1e-1"][0] == 1
    distance[2] = 0.65  # now the pair of 2 is beyond
    _, tar = identity_draws(distance, same, identity, None, 1, Draw())
    assert tar["1e-1"][0] == pytest.approx(2 / 3)


def test_blocks_of_the_running_weight_change_nothing(monkeypatch):
    generator = np.random.default_rng(5)
    copies = generator.integers(0, 4, 30).astype(float)
    first, second = generator.integers(0, 30, (2, 500)).astype(np.int32)
    weight = np.cumsum(copies[first] * copies[second])
    monkeypatch.setattr(_RunningWeight, "_BLOCK", 7)
    running = _RunningWeight(copies, first, second)
    assert running.total == weight[-1]
    for allowed in range(running.total):
        assert running.first_beyond(allowed) == np.flatnonzero(weight > allowed)[0]


def test_shared_identities_widen_the_interval():
    # Genuine pairs of one identity are all near or all far: pairs say too little about the spread.
    generator = np.random.default_rng(4)
    owner = np.repeat(np.arange(20), 20)
    distance = np.where(owner % 2 == 0, 0.5, 1.5) + generator.normal(0, 0.01, 400)
    other = (owner + generator.integers(1, 20, 400)) % 20
    distance = np.concatenate([distance, generator.normal(1.3, 0.1, 400)])
    identity = np.stack([np.tile(owner, 2), np.concatenate([owner, other])])
    same = np.arange(800) < 400
    over_pairs = interval(tar_draws(distance, same, 300, generator)["1e-1"])
    _, draws = identity_draws(distance, same, identity, None, 300, generator)
    over_identities = interval(draws["1e-1"])
    width = [high - low for low, high in (over_pairs, over_identities)]
    assert width[1] > 3 * width[0]
