"""Whether probabilities are calibrated: of the images at 0.8, are 80 % clean?

Reliability diagram and expected calibration error as in Guo, Pleiss, Sun, Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017, over bins of equal width.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15


class Calibration(NamedTuple):
    """How far a probability is what it says, by bins of equal width that have images."""

    predicted: NDArray[np.float64]  # (bins,) mean probability
    observed: NDArray[np.float64]  # (bins,) share of clean images
    num_images: NDArray[np.int64]  # (bins,)
    expected_error: float  # mean |predicted - observed| over images


def calibration(
    clean_probability: NDArray[Any], is_clean: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> Calibration:
    """The reliability diagram and the expected calibration error of N images, `is_clean` or not.

    Args:
        clean_probability: (N,) in [0, 1], at least one.
        num_bins: bins of equal width over [0, 1]; a probability on an edge is in the lower one.
    """
    from sklearn.calibration import calibration_curve

    probability = np.asarray(clean_probability, np.float64)
    observed, predicted = calibration_curve(is_clean, probability, n_bins=num_bins)
    edges = np.linspace(0, 1, num_bins + 1)[1:-1]
    count = np.bincount(np.searchsorted(edges, probability), minlength=num_bins)
    count = count[count > 0].astype(np.int64)
    error = float(np.average(np.abs(predicted - observed), weights=count))
    return Calibration(predicted, observed, count, error)
