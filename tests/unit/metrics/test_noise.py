"""Noise detection against numbers worked by hand, slow loops, and scikit-learn where installed."""

import numpy as np
import pytest

from facetrain.core.rng import numpy_generator
from facetrain.metrics.noise import (
    auroc,
    average_precision,
    best_f1,
    noise_detection,
    threshold_error,
)

# Six images, the cleanest last; noise is at 0.1, 0.3 and 0.5.
SCORE = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
IS_CLEAN = np.array([False, True, False, False, True, True])


def random_case(seed: int, num_images: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores among 0.1, 0.2, ..., 0.9, labels and truth."""
    generator = numpy_generator(seed, "noise metrics")
    is_clean = generator.random(num_images) < 0.6
    score = np.round(np.clip(generator.normal(0.4 + 0.25 * is_clean, 0.25), 0.1, 0.9), 1)
    return score, generator.integers(7, size=num_images), is_clean


def f1_at(threshold: float, score: np.ndarray, is_clean: np.ndarray) -> float:
    dropped = ~(score > threshold)
    found = (dropped & ~is_clean).sum()
    whole = dropped.sum() + (~is_clean).sum()
    return 2 * found / whole if whole else 1.0


def test_by_hand() -> None:
    """Kept above 0.4: dropped 0.1 (noise), 0.2 (clean), 0.3 (noise); 0.5 (noise) is missed.

    Average precision: noise is met at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3. AUROC: of 9 pairs
    of noise and clean, 0.3 and 0.5 are above the clean 0.2: 7 of 9.
    """
    found = noise_detection(SCORE, SCORE > 0.4, IS_CLEAN)
    assert (found.num_images, found.num_noise) == (6, 3)
    assert (found.num_found, found.num_missed, found.num_wrongly_dropped) == (2, 1, 1)
    assert found.precision == found.recall == found.f1 == pytest.approx(2 / 3)
    assert found.average_precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert found.auroc == pytest.approx(7 / 9)
    # Best: drop up to 0.5, three of three found with one clean image: 2 * 3 / (3 + 4).
    assert best_f1(SCORE, IS_CLEAN) == (pytest.approx(6 / 7), 0.5)


def test_without_noise_or_ranking() -> None:
    everything = np.ones(3, bool)
    found = noise_detection(None, everything, everything)
    assert found.precision is found.recall is found.f1 is None
    assert found.average_precision is found.auroc is None
    assert noise_detection(None, ~everything, everything).f1 == 0.0
    score = np.array([0.2, 0.4, 0.4])
    assert average_precision(score, everything) is None
    assert auroc(score, everything) is auroc(score, ~everything) is None
    assert average_precision(score, ~everything) == 1.0
    f1, threshold = best_f1(score, everything)
    assert f1 == 1.0
    assert (score > threshold).all()


@pytest.mark.parametrize("seed", range(5))
def test_ties_against_slow_loops(seed: int) -> None:
    score, _, is_clean = random_case(seed)
    noise, clean = score[~is_clean], score[is_clean]
    pairs = [(n < c) + 0.5 * (n == c) for n in noise for c in clean]
    assert auroc(score, is_clean) == pytest.approx(np.mean(pairs))
    recall, total = 0.0, 0.0
    for value in sorted(set(score.tolist())):
        dropped = score <= value
        found = (dropped & ~is_clean).sum()
        total += (found / len(noise) - recall) * found / dropped.sum()
        recall = found / len(noise)
    assert average_precision(score, is_clean) == pytest.approx(total)
    f1, threshold = best_f1(score, is_clean)
    assert f1 == max(f1_at(value, score, is_clean) for value in [-1, *score])
    assert f1 == f1_at(threshold, score, is_clean)


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    score, _, is_clean = random_case(seed, 300)
    found = noise_detection(score, score > 0.5, is_clean)
    noise, dropped = ~is_clean, score <= 0.5
    assert found.precision == pytest.approx(metrics.precision_score(noise, dropped))
    assert found.recall == pytest.approx(metrics.recall_score(noise, dropped))
    assert found.f1 == pytest.approx(metrics.f1_score(noise, dropped))
    assert found.auroc == pytest.approx(metrics.roc_auc_score(noise, 1 - score))
    assert found.average_precision == pytest.approx(
        metrics.average_precision_score(noise, 1 - score)
    )


def test_the_score_may_be_a_cosine() -> None:
    cosine = 2 * SCORE - 1
    assert best_f1(cosine, IS_CLEAN) == (pytest.approx(6 / 7), 0.0)
    assert auroc(cosine, IS_CLEAN) == auroc(SCORE, IS_CLEAN)
    f1, threshold = best_f1(cosine, np.ones(6, bool))
    assert f1 == 1.0
    assert threshold < -0.8


def test_thresholds_of_classes_by_hand() -> None:
    """Class 0: noise .2 .3, clean .7 .8: any t in [.3, .7). Class 1: no noise, least score .4.
    Class 2: all noise, largest score .6. Class 3: empty. Class 4: clean .2 .3, noise .5, clean .6:
    dropping up to .5 gives 2 * 1 / (3 + 1) = 1/2, no other cut more.
    """
    score = np.array([0.2, 0.3, 0.7, 0.8, 0.4, 0.9, 0.1, 0.6, 0.2, 0.3, 0.5, 0.6])
    label = np.array([0, 0, 0, 0, 1, 1, 2, 2, 4, 4, 4, 4])
    is_clean = np.array([0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1], bool)
    shuffled = numpy_generator(0, "shuffle").permutation(len(score))
    score, label, is_clean = score[shuffled], label[shuffled], is_clean[shuffled]
    best = np.array([0.5, 0.2, 0.8, 0.5, 0.55])
    for threshold, wanted in (
        (best, [0, 0, 0, np.nan, 0]),
        (np.full(5, 0.5), [0, 0.1, 0.1, np.nan, 0]),
        (np.full(5, 0.1), [0.2, 0, 0.5, np.nan, 0.4]),
        (np.full(5, 0.95), [0.25, 0.55, 0, np.nan, 0.35]),
    ):
        error = threshold_error(threshold, score, label, is_clean)
        np.testing.assert_allclose(error, wanted, atol=1e-12)


def test_the_nearest_of_several_best_thresholds_counts() -> None:
    """Noise .1, clean .3 .4, noise .6: dropping .1 gives 2/(1+2), dropping all 4/(4+2): equal."""
    score, label = np.array([0.1, 0.3, 0.4, 0.6]), np.zeros(4, int)
    is_clean = np.array([False, True, True, False])
    for threshold, wanted in ((0.2, 0.0), (0.4, 0.1), (0.5, 0.1), (0.7, 0.0), (0.0, 0.1)):
        error = threshold_error(np.array([threshold]), score, label, is_clean)
        assert error[0] == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_of_classes_against_a_grid(seed: int) -> None:
    """Scores are multiples of 0.1, so a grid of 0.01 holds a point of every interval."""
    score, label, is_clean = random_case(seed)
    grid = np.arange(0.005, 1, 0.01)
    threshold = numpy_generator(seed, "threshold").random(7)
    error = threshold_error(threshold, score, label, is_clean)
    for group in range(7):
        inside = label == group
        f1 = np.array([f1_at(t, score[inside], is_clean[inside]) for t in grid])
        nearest = np.abs(grid[f1 == f1.max()] - threshold[group]).min()
        assert error[group] == pytest.approx(nearest, abs=0.0051)


def test_classes_do_not_touch_each_other() -> None:
    score, label, is_clean = random_case(1)
    threshold = numpy_generator(1, "threshold").random(7)
    whole = threshold_error(threshold, score, label, is_clean)
    for group in range(7):
        inside = label == group
        alone = threshold_error(threshold, score[inside], label[inside], is_clean[inside])
        assert alone[group] == whole[group]
        assert np.isnan(np.delete(alone, group)).all()
