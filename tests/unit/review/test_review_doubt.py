"""Doubt, worked by hand."""

import numpy as np

from facetrain.review.doubt import identity_doubt, image_doubt


def doubt_of(probability: float, threshold: float, **flags: bool) -> float:
    names = ("undecided", "may_merge", "twice")
    columns = [np.array([flags.get(name, False)]) for name in names]
    (doubt,) = image_doubt(np.array([probability]), np.array([threshold]), *columns)
    return float(doubt)


def test_it_falls_from_the_threshold_on() -> None:
    assert doubt_of(0.6, 0.6) == 1
    assert np.isclose(doubt_of(0.7, 0.6), 1 - 0.1 / 0.25)
    assert np.isclose(doubt_of(0.5, 0.6), 1 - 0.1 / 0.25)  # on either side alike
    assert doubt_of(0.85, 0.6) < 1e-6
    assert doubt_of(1.0, 0.6) == doubt_of(0.0, 0.6) == 0


def test_what_is_known_to_be_open_counts_whatever_the_probability() -> None:
    assert doubt_of(0.5, 0.0) == 0  # far above its threshold, and yet
    assert doubt_of(0.5, 0.0, undecided=True) == 1
    assert doubt_of(1.0, 0.5, twice=True) == 1
    assert doubt_of(1.0, 0.5, may_merge=True) == 0.5
    assert np.isclose(doubt_of(0.6, 0.5, may_merge=True), 0.6)  # the larger of the two


def test_an_identity_has_the_sum_of_its_images() -> None:
    doubt, label = np.array([0.5, 1.0, 0.25, 0.125]), np.array([2, 0, 2, 2])
    assert identity_doubt(doubt, label, 4).tolist() == [1.0, 0.0, 0.875, 0.0]
