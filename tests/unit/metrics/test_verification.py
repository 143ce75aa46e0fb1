"""Verification numbers against slow oracles written from their definitions."""

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.metrics.verification import (
    best_threshold,
    check_norms,
    fold_of_pairs,
    pair_geometry,
    roc,
    verification,
)


def slow_accuracy(distance, same, num_folds):
    """Every threshold against every pair, fold by fold."""
    size = [len(distance) // num_folds + (k < len(distance) % num_folds) for k in range(num_folds)]
    edge = np.concatenate(([0], np.cumsum(size)))
    accuracy, thresholds = [], []
    for k in range(num_folds):
        test = [edge[k] <= p < edge[k + 1] for p in range(len(distance))]
        best, best_threshold = -1, None
        for step in range(400):
            right = sum(
                (d < step * 0.01) == s
                for d, s, t in zip(distance, same, test, strict=True)
                if not t
            )
            if right > best:
                best, best_threshold = right, step * 0.01
        judged = [
            (d < best_threshold) == s for d, s, t in zip(distance, same, test, strict=True) if t
        ]
        accuracy.append(sum(judged) / len(judged))
        thresholds.append(best_threshold)
    return accuracy, thresholds


def slow_tar(distance, same, exponent):
    """Try every observed distance, and beyond, as the threshold; keep the best that obeys FAR."""
    genuine, impostor = distance[same], distance[~same]
    if len(impostor) < 10**exponent or not len(genuine):
        return None
    obeying = [
        t
        for t in [*np.unique(distance), np.inf]
        if (impostor < t).sum() * 10**exponent <= len(impostor)
    ]
    return float((genuine < max(obeying)).mean())


def random_pairs(seed, num_pairs, same_share=0.5, decimals=None):
    generator = np.random.default_rng(seed)
    same = generator.random(num_pairs) < same_share
    distance = np.clip(generator.normal(np.where(same, 1.2, 1.9), 0.35), 0, 4)
    return (distance if decimals is None else distance.round(decimals)), same


@pytest.mark.parametrize(("num_pairs", "num_folds"), [(40, 10), (57, 10), (10, 10), (23, 2)])
@pytest.mark.parametrize("decimals", [None, 1])  # 1: many ties, and distances on the thresholds
def test_accuracy_equals_the_slow_protocol(num_pairs, num_folds, decimals):
    distance, same = random_pairs(num_pairs, num_pairs, decimals=decimals)
    accuracy, thresholds = slow_accuracy(distance, same, num_folds)
    result = verification(distance, same, num_folds)
    assert result.fold_accuracy.tolist() == accuracy
    np.testing.assert_allclose(result.fold_threshold, thresholds, rtol=0, atol=1e-12)
    assert result.accuracy == pytest.approx(sum(accuracy) / num_folds, abs=1e-15)
    spread = (sum((a - result.accuracy) ** 2 for a in accuracy) / num_folds) ** 0.5
    assert result.accuracy_std == pytest.approx(spread, abs=1e-15)


@pytest.mark.parametrize("decimals", [None, 2])
def test_tar_at_far_equals_its_definition(decimals):
    distance, same = random_pairs(3, 2500, same_share=0.3, decimals=decimals)
    result = verification(distance, same)
    for exponent in range(1, 7):
        assert result.tar_at_far[f"1e-{exponent}"] == slow_tar(distance, same, exponent)
    assert result.tar_at_far["1e-3"] is not None
    assert result.tar_at_far["1e-4"] is None


def test_tar_needs_one_over_far_impostors_exactly():
    # 0.001 * 29000 is 28.999... in floating point; the 29th false accept must still be allowed.
    impostor = 2 + np.arange(29000) / 29000
    genuine = np.array([impostor[28] + 1e-9, impostor[29] + 1e-9])  # one below the limit, one above
    distance = np.concatenate((genuine, impostor))
    same = np.arange(len(distance)) < 2
    assert verification(distance, same).tar_at_far["1e-3"] == 0.5
    nine = np.arange(20) >= 9
    assert verification(np.linspace(0, 1, 20), nine).tar_at_far["1e-1"] is None
    ten = np.arange(20) >= 10
    assert verification(np.linspace(0, 1, 20), ten).tar_at_far["1e-1"] is not None


def test_auc_is_the_chance_of_the_right_order():
    distance, same = random_pairs(5, 120, decimals=1)
    genuine, impostor = distance[same], distance[~same]
    wins = [(g < i) + 0.5 * (g == i) for g in genuine for i in impostor]
    assert verification(distance, same).auc == pytest.approx(np.mean(wins), abs=1e-12)


def test_equal_error_rate_by_hand():
    # Distances in order: same, other, same, other. ROC: (0, .5) (.5, .5) (.5, 1) (1, 1); the line
    # tar = 1 - far is met at (.5, .5).
    same = np.array([True, False, True, False])
    assert verification(np.array([0.1, 0.2, 0.3, 0.4]), same, 2).eer == 0.5
    # All tied: one slanted segment from (0, 0) to (1, 1), crossed halfway.
    tied = verification(np.full(4, 0.7), same, 2)
    assert (tied.eer, tied.auc) == (0.5, 0.5)
    assert verification(np.array([0.1, 0.9, 0.2, 0.8]), same, 2).eer == 0.0


def test_roc_counts_every_threshold():
    distance, same = random_pairs(8, 60, decimals=1)
    far, tar = roc(distance, same)
    expected = [
        ((distance[~same] <= t).mean(), (distance[same] <= t).mean())
        for t in [-1.0, *np.unique(distance)]
    ]
    np.testing.assert_allclose(np.stack((far, tar), axis=1), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", [True, False])
def test_pairs_of_one_kind_have_no_accuracy(kind):
    # As many folds as one likes: there is nothing to choose a threshold by.
    result = verification(np.linspace(0.1, 2.1, 4), np.full(4, kind))
    assert result.accuracy is result.accuracy_std is result.auc is result.eer is None
    assert result.fold_accuracy.tolist() == []
    assert result.num_impostor_pairs == (0 if kind else 4)
    assert set(result.tar_at_far.values()) == {None}


def test_pairs_in_order_are_dealt_to_the_folds():
    # All same, then all different, is the same set as 10 folds of 18 and 21, in turn.
    distance, same = random_pairs(0, 500)
    genuine, impostor = np.flatnonzero(same)[:180], np.flatnonzero(~same)[:210]
    in_order = np.concatenate([genuine, impostor])
    in_turn = np.concatenate([genuine.reshape(10, 18), impostor.reshape(10, 21)], axis=1).reshape(
        -1
    )
    right, dealt = (verification(distance[rows], same[rows]) for rows in (in_turn, in_order))
    assert (right.folds_dealt, dealt.folds_dealt) == (False, True)
    np.testing.assert_array_equal(dealt.fold_accuracy, right.fold_accuracy)
    accuracy, _ = slow_accuracy(distance[in_turn], same[in_turn], 10)
    assert dealt.fold_accuracy.tolist() == accuracy
    # The folds of the file itself would have said something else.
    assert slow_accuracy(distance[in_order], same[in_order], 10)[0] != accuracy


def test_the_threshold_at_a_far_does_what_it_says():
    distance, same = random_pairs(7, 3000, same_share=0.4, decimals=3)
    result = verification(distance, same)
    cosine = 1 - distance / 2
    for far in ("1e-1", "1e-2", "1e-3"):
        accepted = cosine > result.threshold_at_far[far] + 1e-12  # 1 - d/2 rounds
        assert accepted[same].mean() == result.tar_at_far[far]
        assert accepted[~same].mean() <= float(far)
        # One step lower and too many strangers come in.
        lower = cosine > result.threshold_at_far[far] - 1e-12
        assert lower[~same].mean() > float(far)
    assert result.threshold_at_far["1e-4"] is None


def test_best_threshold_is_the_middle_of_the_gap():
    # Everything is right from just above 1.0 to 2.0: 1.01, 1.02, ..., 2.00; the middle is 1.51.
    distance = np.array([0.3, 1.0, 2.0, 2.5])
    same = np.array([True, True, False, False])
    assert best_threshold(distance, same) == pytest.approx(1.51, abs=1e-9)


def test_folds_are_those_of_a_plain_k_fold():
    # The layout scikit-learn documents: the first P % num_folds folds get one more.
    same = np.array([True, False, True, False, True, False, True])
    assert fold_of_pairs(same, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    # In order, each kind by itself: 3 same pairs, 4 different ones.
    assert fold_of_pairs(np.arange(7) < 3, 3).tolist() == [0, 1, 2, 0, 0, 1, 2]


def test_pair_geometry_is_blind_to_scale_and_rotation():
    generator = np.random.default_rng(0)
    embedding = generator.normal(size=(8, 5))
    rotation = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    distance, norm = pair_geometry(embedding)
    scaled, _ = pair_geometry((embedding * generator.uniform(0.1, 9, (8, 1))) @ rotation)
    np.testing.assert_allclose(scaled, distance, rtol=0, atol=1e-12)
    cosine = [
        embedding[2 * i] @ embedding[2 * i + 1] / norm[2 * i] / norm[2 * i + 1] for i in range(4)
    ]
    np.testing.assert_allclose(distance, 2 - 2 * np.array(cosine), rtol=0, atol=1e-12)


def test_embeddings_without_direction_are_named_by_row():
    embedding = np.ones((6, 3))
    embedding[1] = 0
    embedding[4, 2] = np.nan
    distance, norm = pair_geometry(embedding)
    assert np.isnan(distance).tolist() == [True, False, True]
    with pytest.raises(DataError, match=r"val: .*2 of 6 are \(rows 1, 4\)"):
        check_norms(norm, "val")
    check_norms(norm[[0, 2, 3, 5]], "val")


def test_too_few_pairs_and_infinite_distances_are_refused():
    with pytest.raises(DataError, match=r"in 10 folds .* got 9 pairs; give fewer folds .*--folds"):
        verification(np.zeros(9), np.arange(9) < 5)
    with pytest.raises(DataError, match=r"pairs \[1\] are not"):
        verification(np.array([0.0, np.inf]), np.ones(2, bool), 2)
