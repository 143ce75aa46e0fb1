"""Which identity to look at first: where a look is expected to set most labels right.

Of an image this is the probability that what a training would make of it is wrong; all follows
from the cleaner's probabilities, nothing is weighed by hand.
"""

import numpy as np
from numpy.typing import NDArray

from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import Reason


def image_priority(cleaned: CleanedSet) -> NDArray[np.float32]:
    """The number of wrong labels that a look at each image is expected to settle, (N,) in [0, 1].

    With p that the given label is right and q that the suggested one is: kept under the given
    label `1 - p`; moved to the suggested one `1 - q`; dropped `p + q`, what would be got back.
    1/2 for an image whose copy is kept under another identity, as one of the two labels is wrong.
    1 for a kept image whose identity is proposed for a merge. 0 for an image that was not judged,
    for which nothing speaks.
    """
    result, label = cleaned.result, cleaned.dataset.label
    right, other = result.clean_probability, result.suggested_probability
    wrong = np.where(cleaned.label_after == label, 1 - right, 1 - other)
    wrong = np.where(cleaned.kept_after, wrong, np.minimum(right + other, 1))
    copied = np.maximum(result.duplicate_of, 0)
    twice = (result.duplicate_of >= 0) & cleaned.kept_after & cleaned.kept_after[copied]
    twice &= cleaned.label_after != cleaned.label_after[copied]
    wrong[twice] = np.maximum(wrong[twice], 0.5)
    wrong[copied[twice]] = np.maximum(wrong[copied[twice]], 0.5)
    wrong[cleaned.kept_after & (cleaned.merge[label] >= 0)] = 1
    wrong[result.reason == Reason.NOT_JUDGED] = 0
    return wrong.astype(np.float32)


def identity_priority(
    priority: NDArray[np.floating], label: NDArray[np.int64], num_classes: int
) -> NDArray[np.float64]:
    """The same of each identity (num_classes,): the sum over its images (N,)."""
    return np.bincount(label, priority, num_classes).astype(np.float64)
