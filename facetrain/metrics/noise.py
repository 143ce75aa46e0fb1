"""How well noisy labels are found. Noise is the positive class; clean images are the negative one.

A cleaner says for each image how probable it is that its label is right, and keeps those above a
threshold: `kept = clean_probability > threshold`. Any score that is higher for cleaner images
serves as `clean_probability`. It, `kept` and the truth, `is_clean`, are (N,).
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
