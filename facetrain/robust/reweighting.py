"""When a re-weighted cosine loss is bounded by one with a scaled margin, and when it is not.

Liu et al.: Learning to Learn across Diverse Data Biases in Deep Face Recognition, CVPR 2022,
supplement, section A. At convergence the denominators of sigma times CosFace(s, m) and of
CosFace(sigma s, sigma m) have the ratio

    F(sigma) = (e^(s - m) + C - 1)^sigma / (e^(sigma (s - m)) + C - 1)

and the first loss is bounded by the second where F <= 1. F rises and F(1) = 1, so that is where
0 < sigma <= 1 and nowhere else: Eqs. 8, 10 and 11 claim it for every sigma > 0, with a limit of 1
at infinity, but F goes on rising past 1 (by so little for their numbers that double precision
does not show it). Nor are the two losses nearly equal for small sigma: with s = 64, m = 19.2 and
80,000 classes F(0.25) is 0.48.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_ratio(sigma: Floats, *, scale: float, margin: float, num_classes: int) -> Floats:
    """Logarithm of F(sigma), elementwise; not above 0 exactly where the bound holds.

    Args:
        sigma: importance of a class.
        scale: s.
        margin: m in units of cosine (the paper's m-bar is scale * margin).
        num_classes: C, at least 2.
    """
    exponent = scale * (1 - margin)
    others = math.log(num_classes - 1)
    # log(e^(sigma u) + c) = sigma u + log1p(c e^(-sigma u)), and sigma u cancels in the ratio.
    single = np.logaddexp(0.0, others - exponent)
    return np.asarray(sigma * single - np.logaddexp(0.0, others - sigma * exponent))


def bounded_loss(
    target: Floats, others: Floats, sigma: float, *, scale: float, margin: float
) -> tuple[float, float]:
    """The two ends of Eq. 11 for one sample: sigma CosFace(s, m), CosFace(sigma s, sigma m).

    Args:
        target: () cosine to its own class centre.
        others: (C - 1,) cosines to the others.
    """
    logit, rest = scale * (target - margin), scale * others
    weighted = sigma * (np.logaddexp.reduce([*rest, logit]) - logit)
    rescaled = np.logaddexp.reduce([*(sigma * rest), sigma * logit]) - sigma * logit
    return float(weighted), float(rescaled)
