"""Calibration against numbers worked by hand and a slow loop."""

import numpy as np
import pytest

from facetrain.metrics.calibration import calibration


def test_by_hand() -> None:
    """Bins of a half: below, 0.1 and 0.3 with one of two clean: |0.5 - 0.2|; above, 0.9, 0.9, 0.6
    all clean: |1 - 0.8|. Over five images: (2 * 0.3 + 3 * 0.2) / 5 = 0.24."""
    probability = np.array([0.1, 0.9, 0.3, 0.9, 0.6])
    is_clean = np.array([False, True, True, True, True])
    found = calibration(probability, is_clean, num_bins=2)
    assert found.expected_error == pytest.approx(0.24)
    assert found.num_images.tolist() == [2, 3]
    np.testing.assert_allclose(found.predicted, [0.2, 0.8])
    np.testing.assert_allclose(found.observed, [0.5, 1.0])


@pytest.mark.parametrize("num_bins", [5, 15])
def test_against_a_slow_loop(num_bins: int) -> None:
    generator = np.random.default_rng(num_bins)
    probability = np.concatenate([generator.beta(5, 1, 500), [0.0, 1.0, 0.2, 0.4]])
    is_clean = generator.random(504) < probability**2
    error, numbers = 0.0, []
    for place in range(num_bins):
        low, high = place / num_bins, (place + 1) / num_bins
        inside = (probability > low if place else probability >= 0) & (probability <= high)
        if inside.any():
            gap = abs(is_clean[inside].mean() - probability[inside].mean())
            error += inside.sum() / 504 * gap
            numbers.append(inside.sum())
    found = calibration(probability, is_clean, num_bins)
    assert found.expected_error == pytest.approx(error)
    assert found.num_images.tolist() == numbers


def test_a_true_probability_has_little_error_and_a_distorted_one_much() -> None:
    generator = np.random.default_rng(0)
    probability = generator.random(20_000)
    is_clean = generator.random(20_000) < probability
    # Sampling alone gives about sum over bins of 0.8 sqrt(p (1 - p) / n) n / N = 0.01.
    assert calibration(probability, is_clean).expected_error < 0.02
    assert calibration(probability**3, is_clean).expected_error > 0.2
