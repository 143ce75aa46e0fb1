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
import pytest
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


def ratio(sigma: float, scale: float, margin: float, num_classes: int) -> float:
    """F(sigma) as the supplement writes it."""
    u = scale * (1 - margin)
    return (math.exp(u) + num_classes - 1) ** sigma / (math.exp(sigma * u) + num_classes - 1)


def test_ratio_against_the_papers_formula_and_numbers() -> None:
    for sigma in (-0.5, 0.1, 0.7, 1.0, 1.4):
        expected = math.log(ratio(sigma, 12, 0.3, 100))
        found = log_ratio(np.array(sigma), scale=12, margin=0.3, num_classes=100)
        assert float(found) == pytest.approx(expected, abs=1e-12)
    papers = np.exp(
        log_ratio(np.array([0.2, 0.25, 0.3, 0.5]), scale=64, margin=0.3, num_classes=80_000)
    )
    np.testing.assert_allclose(papers, [0.089, 0.478, 0.896, 0.99999], atol=6e-4)


def test_ratio_rises_and_passes_one_at_one() -> None:
    sigma = np.linspace(-3, 4, 141)
    value = log_ratio(sigma, scale=8, margin=0.3, num_classes=1000)
    assert (np.diff(value) > 0).all()
    np.testing.assert_array_equal(value > 1e-12, sigma > 1 + 1e-9)  # Eq. 10 fails past 1
    assert float(log_ratio(np.array(1.0), scale=8, margin=0.3, num_classes=1000)) == 0
    # Eq. 8 claims a limit of 1 at infinity.
    assert float(log_ratio(np.array(500.0), scale=8, margin=0.3, num_classes=1000)) > 10


@pytest.mark.parametrize("seed", range(20))
def test_reweighted_loss_is_bounded_only_up_to_one(seed: int) -> None:
    """Eq. 11 holds for any cosines, not just at convergence, when 0 < sigma <= 1; not beyond."""
    rng = np.random.default_rng(seed)
    target, others = float(rng.uniform(-1, 1)), rng.uniform(-1, 1, 30)
    for sigma in (0.05, 0.3, 0.9, 1.0):
        low, high = bounded_loss(target, others, sigma, scale=16, margin=0.3)
        assert low <= high + 1e-12
    low, high = bounded_loss(target, others, 1.5, scale=16, margin=0.3)
    assert low > high
