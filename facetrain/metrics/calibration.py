"""Whether a probability is one: of the images at 0.8, are 80 % clean?

Reliability diagram and expected calibration error as in Guo, Pleiss, Sun, Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017, over bins of equal width.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15


class CalibrationBins(NamedTuple):
    """The bins that hold images, in rising order of probability.

    Attributes:
        edge: (num_bins + 1,) of all bins, from 0 to 1.
        bin: (K,) which of them; bin k is from edge k to edge k + 1.
        probability: (K,) mean of the images' probabilities.
        share_clean: (K,) of the images.
        num_images: (K,).
    """

    edge: NDArray[np.float64]
    bin: NDArray[np.int64]
    probability: NDArray[np.float64]
    share_clean: NDArray[np.float64]
    num_images: NDArray[np.int64]


def calibration(
    clean_probability: NDArray[Any], is_clean: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> tuple[CalibrationBins, float]:
    """Bins of a reliability diagram, and the expected calibration error.

    The error is the mean over images of |share of clean images - mean probability| of their bin.

    Args:
        clean_probability: (N,) in [0, 1], at least one.
        is_clean: (N,) the truth.
        num_bins: bins of equal width over [0, 1]; a probability on an edge is in the lower one.
    """
    probability = np.asarray(clean_probability, np.float64)
    assert len(probability) > 0
    assert ((probability >= 0) & (probability <= 1)).all()
    edge = np.linspace(0, 1, num_bins + 1)
    place = np.searchsorted(edge[1:-1], probability)  # (N,)
    count = np.bincount(place, minlength=num_bins)
    filled = np.flatnonzero(count)
    mean = np.bincount(place, probability, num_bins)[filled] / count[filled]
    share = np.bincount(place, is_clean, num_bins)[filled] / count[filled]
    bins = CalibrationBins(edge, filled, mean, share, count[filled])
    return bins, float(np.average(np.abs(share - mean), weights=count[filled]))
