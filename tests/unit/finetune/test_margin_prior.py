"""The class margins against the papers' formulas."""

import numpy as np
import pytest

from facetrain.finetune.margin_prior import ClassPrior, class_margins, variation_margins

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
