"""The best thresholds in hindsight against numbers worked by hand and slow loops."""

import numpy as np
import pytest

from facetrain.core.rng import numpy_generator
from tools.benchmarks.clean.hindsight import best_f1, threshold_error


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


def test_best_f1_by_hand() -> None:
    """Drop up to 0.5: three of three found with one clean image: 2 * 3 / (3 + 4)."""
    score = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    is_clean = np.array([False, True, False, False, True, True])
    assert best_f1(score, is_clean) == best_f1(2 * score - 1, is_clean) == pytest.approx(6 / 7)
    assert best_f1(score, np.ones(6, bool)) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_with_ties_is_that_of_every_threshold(seed: int) -> None:
    score, _, is_clean = random_case(seed)
    assert best_f1(score, is_clean) == max(f1_at(t, score, is_clean) for t in [-1, *score])


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
