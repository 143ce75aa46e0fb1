"""The class margins against the papers' formulas, and the bound of section A in its range."""

import math

import numpy as np
import pytest

from facetrain.finetune.margin_prior import ClassPrior, class_margins, variation_margins
from facetrain.robust.reweighting import bounded_loss, log_ratio

COUNT = np.array([1, 16, 81, 300])


def test_rare_levels_have_larger_margins_by_hand() -> None:
    # Pose: 6 of 8 known are frontal, 2 turned: surprises log(4/3), log 4, mean m = 0.75 log(4/3)
    # + 0.25 log 4. Blur: all known alike. The images' rarities: log(4/3) - m = -0.25 log 3 and
    # log 4 - m = 0.75 log 3; the two of unknown pose 0. The largest is three times the smallest.
    level = np.array([[0, 1]] * 6 + [[1, -1]] * 2 + [[-1, 1], [-1, -1]])
    found = variation_margins(level, 0.3, 0.15, 0.6)
    np.testing.assert_allclose(found, [0.25] * 6 + [0.45] * 2 + [0.3] * 2)
    assert found.mean() == pytest.approx(0.3)
    # Two factors add up: turned and blurred is the furthest from the mean.
    level = np.array([[0, 0]] * 3 + [[0, 1], [1, 0], [1, 1]])
    found = variation_margins(level, 0.3, 0.2, 0.6)
    assert found.mean() == pytest.approx(0.3)
    assert found[5] == pytest.approx(0.5)
    assert found[3] == found[4]
    assert found[3] - found[0] == pytest.approx(found[5] - found[3])
    np.testing.assert_allclose(variation_margins(np.zeros((4, 2), int), 0.3, 0.2, 0.6), 0.3)
    assert variation_margins(level, 0.3, 0.5, 0.6).max() == 0.6


def test_ldam_by_hand() -> None:
    """n^(-1/4) is 1, 1/2, 1/3; the mean over images is the base margin."""
    found = class_margins(np.array([1, 16, 81]), "ldam", 0.35, 0.99)
    np.testing.assert_allclose(found / found[0], [1, 1 / 2, 1 / 3])
    assert float(np.average(found, weights=[1, 16, 81])) == pytest.approx(0.35)


def test_effective_number_is_bounded_around_its_mean() -> None:
    found = class_margins(COUNT, "effective_number", 0.35, 0.99)
    sigma = (1 - 0.9999) / (1 - 0.9999**COUNT)
    weight = np.clip(sigma / (np.sum(sigma * COUNT) / np.sum(COUNT)), 0.7, 1.4)
    np.testing.assert_allclose(found, 0.35 * weight / (np.sum(weight * COUNT) / np.sum(COUNT)))


@pytest.mark.parametrize("kind", ["ldam", "effective_number", "none"])
def test_margins_fall_with_the_number_of_images(kind: ClassPrior) -> None:
    found = class_margins(COUNT, kind, 0.35, 0.6)
    assert (np.diff(found) <= 0).all()
    assert found.max() <= 0.6
    if kind == "none":
        np.testing.assert_array_equal(found, 0.35)


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
