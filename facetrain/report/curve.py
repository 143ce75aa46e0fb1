"""The error rates of a verification set at every threshold, as pictures need them."""

import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facetrain.metrics.verification import Bools, Floats, area_under, roc

_probit = np.vectorize(statistics.NormalDist().inv_cdf, otypes=[np.float64])


class Curve(NamedTuple):
    """TAR over FAR.

    Attributes:
        far: ascending, from 0.
        tar: of the same length; at no more than `far`.
        smallest_far: one false accept in all impostor pairs.
        smallest_fnr: one false reject in all pairs of one person.
        area: under the curve.
    """

    far: Floats
    tar: Floats
    smallest_far: float
    smallest_fnr: float
    area: float

    @classmethod
    def of(cls, distance: Floats, same: Bools) -> "Curve | None":
        """From distance (P,) and same (P,); None without pairs of both kinds."""
        if not same.any() or same.all():
            return None
        far, tar = roc(distance, same)
        num_impostor = int(np.count_nonzero(~same))
        return cls(far, tar, 1 / num_impostor, 1 / (len(same) - num_impostor), area_under(far, tar))

    @classmethod
    def read(cls, path: Path, num_pairs: int, num_impostor_pairs: int) -> "Curve":
        """From the `.npz` with `far` and `tar` that IJB leaves."""
        with np.load(path, allow_pickle=False) as arrays:
            far, tar = arrays["far"], arrays["tar"]
        genuine = num_pairs - num_impostor_pairs
        return cls(far, tar, 1 / num_impostor_pairs, 1 / genuine, area_under(far, tar))


def probit(share: Floats) -> Floats:
    """The normal quantile of each share in (0, 1)."""
    return np.asarray(_probit(share), np.float64)


def det_points(curve: Curve) -> tuple[Floats, Floats]:
    """False accept and false reject rate, both as normal quantiles (Martin et al., 1997).

    Only where both can be measured: one pair at least on either side.
    """
    fnr = 1 - curve.tar
    tiny = 1e-12  # 1 - tar of one pair may lie below 1 / pairs
    measured = (curve.far >= curve.smallest_far - tiny) & (fnr >= curve.smallest_fnr - tiny)
    measured &= (curve.far < 1) & (fnr < 1)
    return probit(curve.far[measured]), probit(fnr[measured])
