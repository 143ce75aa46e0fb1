"""How well noisy labels are found. Noise is the positive class; clean images are the negative one.

A cleaner says for each image how probable it is that its label is right, and keeps those above a
threshold: `kept = clean_probability > threshold`. Any score that is higher for cleaner images
serves as `clean_probability`, save where a threshold's place between 0 and 1 is asked for.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class NoiseDetection:
    """What was dropped against what should have been; None where a ratio has no denominator."""

    precision: float | None  # of the dropped images, the share that is noise
    recall: float | None  # of the noise, the share that is dropped
    f1: float | None
    average_precision: float | None
    auroc: float | None
    num_images: int
    num_noise: int
    num_found: int  # noise that is dropped
    num_missed: int  # noise that is kept
    num_wrongly_dropped: int  # clean images that are dropped

    def numbers(self) -> dict[str, Any]:
        """The JSON form."""
        return dataclasses.asdict(self)


def noise_detection(
    clean_probability: NDArray[Any] | None, kept: Bools, is_clean: Bools
) -> NoiseDetection:
    """Precision, recall and F1 of the dropped images, and the ranking's quality.

    Args:
        clean_probability: (N,) without NaN, or None from a method that does not rank; then
            average_precision and auroc are None.
        kept: (N,).
        is_clean: (N,) the truth.
    """
    noise, dropped = ~is_clean, ~kept
    found = int(np.count_nonzero(noise & dropped))
    num_noise, num_dropped = int(np.count_nonzero(noise)), int(np.count_nonzero(dropped))
    ranks = None if clean_probability is None else (clean_probability, is_clean)
    return NoiseDetection(
        precision=_ratio(found, num_dropped),
        recall=_ratio(found, num_noise),
        f1=_ratio(2 * found, num_noise + num_dropped),
        average_precision=average_precision(*ranks) if ranks else None,
        auroc=auroc(*ranks) if ranks else None,
        num_images=len(is_clean),
        num_noise=num_noise,
        num_found=found,
        num_missed=num_noise - found,
        num_wrongly_dropped=num_dropped - found,
    )


def average_precision(clean_probability: NDArray[Any], is_clean: Bools) -> float | None:
    """Precision averaged over the steps of recall, the most suspicious images first.

    Images of equal score enter together. None without noise.
    """
    from sklearn.metrics import average_precision_score

    if is_clean.all():
        return None
    return float(average_precision_score(~is_clean, -np.asarray(clean_probability, np.float64)))


def auroc(clean_probability: NDArray[Any], is_clean: Bools) -> float | None:
    """Probability that noise scores lower than a clean image, a tie counting half.

    None unless there are both.
    """
    from sklearn.metrics import roc_auc_score

    if is_clean.all() or not is_clean.any():
        return None
    return float(roc_auc_score(is_clean, np.asarray(clean_probability, np.float64)))


def best_f1(clean_probability: NDArray[Any], is_clean: Bools) -> tuple[float, float]:
    """F1 of the best single threshold in hindsight, and the lowest such threshold.

    The threshold is the score of the last image to be dropped, or one below all scores. Without
    noise the best is to drop nothing, and that is an F1 of 1.
    """
    cuts = _cuts(clean_probability, np.zeros(len(is_clean), np.int64), is_clean)
    best = int(cuts.f1.argmax())
    threshold = cuts.low[best] if best else float(np.min(clean_probability)) - 1
    return float(cuts.f1[best]), float(threshold)


def threshold_error(
    threshold: NDArray[Any],
    clean_probability: NDArray[Any],
    label: NDArray[np.int64],
    is_clean: Bools,
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
        is_clean: (N,).
    """
    cuts = _cuts(clean_probability, label, is_clean).best()
    value = np.asarray(threshold, np.float64)[cuts.group]
    distance = np.maximum(np.maximum(cuts.low - value, value - cuts.high), 0)
    error = np.full(len(threshold), np.inf)
    np.minimum.at(error, cuts.group, distance)
    return np.where(np.isinf(error), np.nan, error)


@dataclasses.dataclass(frozen=True)
class _Cuts:
    """All ways to cut each group's images by a threshold in [low, high), lowest first."""

    group: NDArray[np.int64]  # (number of cuts,) non-decreasing
    low: Floats  # the largest score that is dropped; 0 where none is
    high: Floats  # the least score that is kept; 1 where none is
    found: NDArray[np.int64]  # noise that is dropped
    dropped: NDArray[np.int64]
    f1: Floats  # 1 where there is no noise and nothing is dropped

    def best(self) -> "_Cuts":
        """The cuts of best F1 of each group. Equal ratios of integers are equal floats."""
        most = np.zeros(int(self.group[-1]) + 1 if len(self.group) else 0)
        np.maximum.at(most, self.group, self.f1)
        chosen = self.f1 == most[self.group]
        return _Cuts(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))


def _cuts(score: NDArray[Any], group: NDArray[np.int64], is_clean: Bools) -> _Cuts:
    """Every distinct cut; N log N."""
    groups, group, size = np.unique(group, return_inverse=True, return_counts=True)
    num_groups = len(groups)
    # An image below all others in each group: what lies up to it is the cut that drops nothing.
    score = np.append(np.full(num_groups, -np.inf), score)
    group, noise = (
        np.append(np.arange(num_groups), group),
        np.append(np.zeros(num_groups, np.bool_), ~is_clean),
    )
    order = np.lexsort((score, group))
    score, group, noise = score[order], group[order], noise[order]
    start = np.repeat(np.cumsum(size + 1) - size - 1, size + 1)  # place of the group's first
    next_score = np.append(score[1:], -np.inf)  # -inf behind the last image of a group
    place = np.flatnonzero(score != next_score)  # the last of each tie
    total = np.cumsum(noise)
    found = total[place] - total[start[place]]
    dropped = place - start[place]
    num_noise = np.bincount(group, noise, num_groups).astype(np.int64)  # of each group
    denominator = dropped + num_noise[group[place]]
    low = np.where(dropped == 0, 0.0, score[place])
    high = np.where(np.isneginf(next_score[place]), 1.0, next_score[place])
    f1 = np.where(denominator == 0, 1.0, 2 * found / np.maximum(denominator, 1))
    return _Cuts(groups[group[place]], low, high, found, dropped, f1)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
