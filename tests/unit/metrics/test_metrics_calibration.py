"""Calibration against numbers worked by hand and scikit-learn's curve."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from facetrain.metrics.calibration import calibration


def test_by_hand() -> None:
    """Bins of a half: below, 0.1 and 0.3 with one of two clean: |0.5 - 0.2|; above, 0.9, 0.9, 0.6
    all clean: |1 - 0.8|. Over five images: (2 * 0.3 + 3 * 0.2) / 5 = 0.24."""
    probability = np.array([0.1, 0.9, 0.3, 0.9, 0.6])
    is_clean = np.array([False, True, True, True, True])
    bins, ece = calibration(probability, is_clean, num_bins=2)
    assert ece == pytest.approx(0.24)
    assert bins.num_images.tolist() == [2, 3]
    np.testing.assert_allclose(bins.probability, [0.2, 0.8])
    np.testing.assert_allclose(bins.share_clean, [0.5, 1.0])


@pytest.mark.parametrize("num_bins", [5, 15])
def test_against_scikit_learn(num_bins: int) -> None:
    generator = np.random.default_rng(num_bins)
    probability = np.concatenate([generator.beta(5, 1, 500), [0.0, 1.0, 0.2, 0.4]])
    is_clean = generator.random(504) < probability**2
    bins, _ = calibration(probability, is_clean, num_bins)
    share, mean = calibration_curve(is_clean, probability, n_bins=num_bins)
    np.testing.assert_allclose(bins.share_clean, share)
    np.testing.assert_allclose(bins.probability, mean)
    assert bins.num_images.sum() == 504
    assert ((bins.edge[bins.bin] <= mean) & (mean <= bins.edge[bins.bin + 1])).all()


def test_a_true_probability_has_little_error_and_a_distorted_one_much() -> None:
    generator = np.random.default_rng(0)
    probability = generator.random(20_000)
    is_clean = generator.random(20_000) < probability
    # Sampling alone gives about sum over bins of 0.8 sqrt(p (1 - p) / n) n / N = 0.01.
    assert calibration(probability, is_clean)[1] < 0.02
    assert calibration(probability**3, is_clean)[1] > 0.2
