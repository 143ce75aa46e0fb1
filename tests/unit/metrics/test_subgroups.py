"""Subgroups against counts written out."""

import math

import numpy as np
import pytest

from facetrain.metrics.subgroups import subgroups, wilson_interval
from facetrain.metrics.verification import best_threshold, tar_at_far


def draw(num_pairs=3000, seed=0):
    generator = np.random.default_rng(seed)
    same = generator.random(num_pairs) < 0.4
    level_a = generator.integers(-1, 3, num_pairs)
    level_b = np.where(
        generator.random(num_pairs) < 0.6, level_a, generator.integers(-1, 3, num_pairs)
    )
    hard = 0.4 * (level_a == 2)
    distance = np.clip(generator.normal(np.where(same, 0.8 + hard, 1.7), 0.3), 0, 3.9)
    return distance, same, level_a, level_b


def test_every_number_is_a_count():
    distance, same, level_a, level_b = draw()
    thresholds, rows = subgroups(distance, same, level_a, level_b)
    assert thresholds.accuracy == best_threshold(distance, same)
    overall = tar_at_far(distance, same)
    found = {row.levels: row for row in rows}
    assert list(found) == [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    for (a, b), row in found.items():
        member = [i for i in range(len(same)) if sorted((level_a[i], level_b[i])) == [a, b]]
        genuine = [distance[i] for i in member if same[i]]
        impostor = [distance[i] for i in member if not same[i]]
        assert (row.num_genuine, row.num_impostor) == (len(genuine), len(impostor))
        right = sum(d < thresholds.accuracy for d in genuine)
        right += sum(d >= thresholds.accuracy for d in impostor)
        assert row.accuracy.value == pytest.approx(right / len(member), abs=1e-12)
        for far in ("1e-1", "1e-2", "1e-3"):
            threshold = thresholds.at_far[far]
            # The threshold is the one that the whole set's TAR is measured at.
            assert np.mean(distance[same] < threshold) == overall[far]
            tar = sum(d < threshold for d in genuine) / len(genuine)
            assert row.tar_at_far[far].value == pytest.approx(tar, abs=1e-12)
            own = sum(d < threshold for d in impostor) / len(impostor)
            assert row.own_far[far].value == pytest.approx(own, abs=1e-12)
        assert row.tar_at_far["1e-4"].value is None  # 1800 impostor pairs cannot tell
    # The planted difference is seen: level 2 is worse than the others by more than chance.
    assert found[2, 2].tar_at_far["1e-2"].interval[1] < found[0, 0].tar_at_far["1e-2"].interval[0]


def test_order_within_a_pair_does_not_matter_and_unknown_is_left_out():
    distance, same, level_a, level_b = draw()
    _, rows = subgroups(distance, same, level_a, level_b)
    _, swapped = subgroups(distance, same, level_b, level_a)
    assert rows == swapped
    known = (level_a >= 0) & (level_b >= 0)
    assert sum(row.num_genuine + row.num_impostor for row in rows) == known.sum() < len(known)
    assert subgroups(distance, same, level_a * 0 - 1, level_b)[1] == []


def test_wilson_by_hand():
    # 8 of 10, z = 1.96: centre (0.8 + 0.19208) / 1.38416 = 0.71674,
    # half 1.96 / 1.38416 sqrt(0.016 + 0.009604) = 0.22658.
    assert wilson_interval(8, 10) == pytest.approx([0.49016, 0.94332], abs=2e-5)
    assert wilson_interval(0, 5)[0] == 0
    assert wilson_interval(5, 5)[1] == 1
    assert wilson_interval(0, 0) is None


def test_wilson_covers():
    # By exact enumeration: the chance that the interval holds p = 0.9 for n = 50.
    n, p = 50, 0.9
    covered = 0.0
    for hits in range(n + 1):
        low, high = wilson_interval(hits, n)
        if low <= p <= high:
            covered += math.comb(n, hits) * p**hits * (1 - p) ** (n - hits)
    assert 0.93 < covered < 0.98
