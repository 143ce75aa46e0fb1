"""What a look is worth, worked by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from helpers.reports import LABEL, RESULT, opened, write_run

from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import Reason
from facetrain.review.priority import identity_priority, image_priority


def cleaned_set(folder: Path, **change: Any) -> CleanedSet:
    """Classes of four images, of which 3 (0.1) and 11 (0.3) are dropped; suggestions at 0.9."""
    return dataclasses.replace(opened(write_run(folder)), **change)


def test_it_is_the_probability_that_the_training_is_told_something_wrong(tmp_path: Path) -> None:
    cleaned = cleaned_set(tmp_path)
    found = image_priority(cleaned)
    np.testing.assert_allclose(found[[0, 1, 2, 7]], [0.1, 0.2, 0.05, 0.3], atol=1e-6)
    np.testing.assert_allclose(found[[3, 11]], [1, 1])  # 0.1 + 0.9; 0.3 + 0.9, at most 1
    moved, kept = cleaned.label_after.copy(), cleaned.kept_after.copy()
    moved[3], kept[3] = 1, True  # the suggestion is applied: wrong if it is
    found = image_priority(dataclasses.replace(cleaned, label_after=moved, kept_after=kept))
    np.testing.assert_allclose(found[3], 0.1, atol=1e-6)
    nobody = dataclasses.replace(RESULT, suggested_probability=np.zeros(12, np.float32))
    found = image_priority(dataclasses.replace(cleaned, result=nobody))
    np.testing.assert_allclose(found[[3, 11]], [0.1, 0.3], atol=1e-6)


def test_a_merge_is_worth_its_kept_images_and_a_copy_half(tmp_path: Path) -> None:
    merged = cleaned_set(tmp_path / "a", merge=np.array([-1, 2, -1]))
    found = image_priority(merged)
    assert found[LABEL == 1].tolist() == [1, 1, 1, 1]
    assert identity_priority(found, LABEL, 3)[1] == 4
    copied = np.full(12, -1)
    copied[[5, 9]] = 4, 8  # 5 copies 4 and 9 copies 8; both under one identity
    result = dataclasses.replace(RESULT, duplicate_of=copied)
    cleaned = cleaned_set(tmp_path / "b", result=result)
    np.testing.assert_allclose(image_priority(cleaned)[[4, 5, 8, 9]], 0.1, atol=1e-6)
    apart = cleaned.label_after.copy()
    apart[5] = 2
    found = image_priority(dataclasses.replace(cleaned, label_after=apart))
    np.testing.assert_allclose(found[[4, 5, 8, 9]], [0.5, 1, 0.1, 0.1], atol=1e-6)


def test_what_was_not_judged_is_worth_nothing(tmp_path: Path) -> None:
    result = dataclasses.replace(RESULT, reason=np.full(12, Reason.NOT_JUDGED, np.uint8))
    assert not image_priority(cleaned_set(tmp_path, result=result)).any()


def test_an_identity_has_the_sum_of_its_images() -> None:
    priority, label = np.array([0.5, 1.0, 0.25, 0.125]), np.array([2, 0, 2, 2])
    assert identity_priority(priority, label, 4).tolist() == [1.0, 0.0, 0.875, 0.0]
