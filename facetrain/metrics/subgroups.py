"""Differences between subgroups: verification by the levels of an attribute, and across levels.

One threshold for everybody is how a system is used, so every level is judged at the thresholds
that all pairs together choose. A level's FAR at that threshold says as much as its TAR: NIST IR
8280 (Grother, Ngan, Hanaoka, "Face Recognition Vendor Test Part 3: Demographic Effects", 2019)
found false accepts to differ far more than false rejects.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.metrics.verification import Bools, Floats, best_threshold, threshold_at_far

UNKNOWN = -1
_FAR_EXPONENTS = (1, 2, 3, 4)


@dataclasses.dataclass(frozen=True)
class Share:
    """A rate, as counted."""

    value: float | None  # of 0..1; None of nothing
    interval: list[float] | None
    """[low, high], 95 %, by Wilson's score; None of nothing. It takes the pairs as independent and
    the threshold as given."""

    @classmethod
    def of(cls, part: Bools) -> "Share":
        """The share of true values in (n,)."""
        n, hits = len(part), int(part.sum())
        return cls(hits / n if n else None, wilson_interval(hits, n))


def wilson_interval(hits: int, n: int) -> list[float] | None:
    """[low, high] of a binomial rate, 95 %; None for n = 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    22, 1927. Unlike the normal approximation it is sensible at 0 and 1.
    """
    from scipy.stats import binomtest  # a second to import

    return [*map(float, binomtest(hits, n).proportion_ci(method="wilson"))] if n else None


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What all pairs together choose; a pair below a threshold is accepted."""

    accuracy: float  # the distance that judges most pairs rightly
    at_far: dict[str, float | None]
    """As `threshold_at_far`: "1e-3" -> distance, None where there are too few impostor pairs."""


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """The numbers of the pairs between two levels, or within one."""

    levels: tuple[int, int]  # (a, b) with a <= b; equal for pairs within one level
    num_genuine: int  # pairs of one person. Across levels: images of one person at both levels.
    num_impostor: int  # pairs of different people
    accuracy: Share  # at the threshold of all pairs
    tar_at_far: dict[str, Share]  # "1e-3" -> TAR at the threshold that has this FAR over all pairs
    own_far: dict[str, Share]  # "1e-3" -> the FAR of this subgroup at that threshold

    def numbers(self) -> dict[str, Any]:
        """The JSON form: `accuracy`, `accuracy_interval`, `tar_at_far`, and so on."""
        return {
            "num_pairs": self.num_genuine + self.num_impostor,
            "num_genuine_pairs": self.num_genuine,
            "num_impostor_pairs": self.num_impostor,
            "accuracy": self.accuracy.value,
            "accuracy_interval": self.accuracy.interval,
            "tar_at_far": {far: share.value for far, share in self.tar_at_far.items()},
            "tar_at_far_interval": {far: share.interval for far, share in self.tar_at_far.items()},
            "own_far": {far: share.value for far, share in self.own_far.items()},
            "own_far_interval": {far: share.interval for far, share in self.own_far.items()},
        }


def _judge(
    distance: Floats, same: Bools, levels: tuple[int, int], thresholds: Thresholds
) -> Subgroup:
    """The numbers of some pairs at given thresholds."""
    genuine, impostor = distance[same], distance[~same]
    nothing = Share(None, None)
    known = thresholds.at_far.items()
    return Subgroup(
        levels=levels,
        num_genuine=len(genuine),
        num_impostor=len(impostor),
        accuracy=Share.of((distance < thresholds.accuracy) == same),
        tar_at_far={far: nothing if t is None else Share.of(genuine < t) for far, t in known},
        own_far={far: nothing if t is None else Share.of(impostor < t) for far, t in known},
    )


def subgroups(
    distance: Floats,
    same: Bools,
    level_a: NDArray[np.integer[Any]],
    level_b: NDArray[np.integer[Any]],
) -> tuple[Thresholds, list[Subgroup]]:
    """Judge the pairs (P,) within each level and between each two levels of one attribute.

    Args:
        level_a: (P,) level of the first image of each pair, from 0 on; -1 is unknown.
        level_b: (P,) of the second image.

    Returns:
        The thresholds that all pairs choose, of unknown level too, and every combination of levels
        that has pairs: first those within a level, by level, then those across levels. Pairs
        with an unknown level are in none.
    """
    at_far = threshold_at_far(distance, same, _FAR_EXPONENTS)
    thresholds = Thresholds(best_threshold(distance, same), at_far)
    low, high = np.minimum(level_a, level_b), np.maximum(level_a, level_b)
    known = low != UNKNOWN
    found = np.unique(np.stack([low[known], high[known]], axis=1), axis=0).tolist()
    found.sort(key=lambda levels: (levels[0] != levels[1], levels))
    rows = []
    for a, b in found:
        member = (low == a) & (high == b)
        rows.append(_judge(distance[member], same[member], (a, b), thresholds))
    return thresholds, rows
