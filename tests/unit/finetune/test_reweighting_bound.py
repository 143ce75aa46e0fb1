"""Where a re-weighted cosine loss is bounded by one with a scaled margin: docs/finetune.md.

Liu et al.: Learning to Learn across Diverse Data Biases in Deep Face Recognition, CVPR 2022,
supplement, section A: sigma CosFace(s, m) <= CosFace(sigma s, sigma m) where F(sigma) <= 1.
"""

import math

import numpy as np
import pytest


def ratio(sigma: float, scale: float, margin: float, num_classes: int) -> float:
    """F(sigma) as the supplement writes it."""
    u = scale * (1 - margin)
    return (math.exp(u) + num_classes - 1) ** sigma / (math.exp(sigma * u) + num_classes - 1)


def test_ratio_has_the_papers_numbers_and_passes_one_at_one() -> None:
    found = [ratio(sigma, 64, 0.3, 80_000) for sigma in (0.2, 0.25, 0.3, 0.5)]
    np.testing.assert_allclose(found, [0.089, 0.478, 0.896, 0.99999], atol=6e-4)
    value = np.array([ratio(sigma, 8, 0.3, 1000) for sigma in np.linspace(-3, 20, 231)])
    assert (np.diff(value) > 0).all()
    assert ratio(1, 8, 0.3, 1000) == pytest.approx(1)  # Eq. 10 fails past 1
    assert value[-1] > 10  # Eq. 8 claims a limit of 1 at infinity


@pytest.mark.parametrize("seed", range(20))
def test_reweighted_loss_is_bounded_only_up_to_one(seed: int) -> None:
    """Eq. 11 holds for any cosines, not just at convergence, when 0 < sigma <= 1; not beyond."""
    rng = np.random.default_rng(seed)
    target, others = 16 * (rng.uniform(-1, 1) - 0.3), 16 * rng.uniform(-1, 1, 30)
    for sigma in (0.05, 0.3, 0.9, 1.0, 1.5):
        weighted = sigma * (np.logaddexp.reduce([*others, target]) - target)
        rescaled = np.logaddexp.reduce([*(sigma * others), sigma * target]) - sigma * target
        assert (weighted <= rescaled + 1e-12) == (sigma <= 1)
