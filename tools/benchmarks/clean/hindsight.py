"""The best single threshold of a set or of a class, found with the truth, which nobody has."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Cuts(NamedTuple):
    """Every way to drop the images up to a threshold in [low, high), the lowest first."""

    low: Floats  # the largest score that is dropped; 0 where none is
    high: Floats  # the least score that is kept; 1 where none is
    f1: Floats  # of the dropped as noise; 1 where there is no noise and nothing is dropped


def cuts(score: NDArray[Any], is_clean: NDArray[np.bool_]) -> Cuts:
    """All cuts of images whose labels are right as `is_clean` (N,) says; N log N."""
    order = np.argsort(score, kind="stable")
    score, noise = np.asarray(score, np.float64)[order], ~is_clean[order]
    last = np.flatnonzero(np.diff(score, append=np.inf))  # images of equal score drop together
    dropped = np.append(0, last + 1)
    found = np.append(0, np.cumsum(noise)[last])
    whole = dropped + noise.sum()
    f1 = np.where(whole == 0, 1.0, 2 * found / np.maximum(whole, 1))
    return Cuts(np.append(0.0, score[last]), np.append(score, 1.0)[dropped], f1)


def best_f1(score: NDArray[Any], is_clean: NDArray[np.bool_]) -> float:
    """F1 of the best single threshold; 1 without noise, where the best is to drop nothing."""
    return float(cuts(score, is_clean).f1.max())


def threshold_error(
    threshold: NDArray[Any],
    clean_probability: NDArray[Any],
    label: NDArray[np.int64],
    is_clean: NDArray[np.bool_],
) -> Floats:
    """(num_classes,) distance from each class's threshold to the nearest one of best F1.

    The thresholds of best F1 in a class fill intervals, from the score of the last image that is
    dropped to that of the first that is kept (0 and 1 at the ends); inside them, the error is 0.
    So a class without noise has an error where its threshold lies above its least score, and one
    without clean images where it lies below its largest. NaN for a class without images.

    Args:
        threshold: (num_classes,) in [0, 1].
        clean_probability: (N,) in [0, 1].
        label: (N,) in 0..num_classes-1.
        is_clean: (N,) the truth.
    """
    error = np.full(len(threshold), np.nan)
    order = np.argsort(label, kind="stable")
    for images in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        own = cuts(clean_probability[images], is_clean[images])
        best = own.f1 == own.f1.max()  # equal ratios of integers are equal floats
        value = float(threshold[label[images[0]]])
        distance = np.maximum(own.low[best] - value, value - own.high[best])
        error[label[images[0]]] = max(0.0, float(distance.min()))
    return error
