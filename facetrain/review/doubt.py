"""How much a person's look at an image, and at an identity, is likely to change.

The doubt of an image is in [0, 1]: 1 where the cleaner's decision is a coin's toss, 0 where it is
plain. The doubt of an identity is the sum over its images: about how many decisions there may turn
out otherwise, so that the identities where a minute of attention is worth most come first.
"""

import numpy as np
from numpy.typing import NDArray

_NEAR = 0.25
"""|probability - threshold| from which a decision counts as plain."""
_MERGE = 0.5
"""Doubt of an image whose identity may be the same person as another: right, yet misplaced."""


def image_doubt(
    clean_probability: NDArray[np.floating],
    threshold: NDArray[np.floating],
    undecided: NDArray[np.bool_],
    may_merge: NDArray[np.bool_],
    twice: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Doubt of N images (N,): the largest of what speaks for it.

    `1 - |p - threshold| / 0.25` near the threshold; 1 where the cleaner could not decide, and for
    a copy of an image that another identity has as well; 1/2 where a merge is proposed.

    Args:
        clean_probability: (N,).
        threshold: (N,) of each image's identity.
        undecided: (N,) nothing told whose the image is.
        may_merge: (N,) kept, and its identity seems to be the same person as another.
        twice: (N,) a near copy is kept under another identity.
    """
    near = 1 - np.abs(clean_probability - threshold) / _NEAR
    doubt = np.where(may_merge, np.maximum(near, _MERGE), near)
    return np.where(undecided | twice, 1.0, np.clip(doubt, 0, 1)).astype(np.float32)


def identity_doubt(
    doubt: NDArray[np.floating], label: NDArray[np.int64], num_classes: int
) -> NDArray[np.float64]:
    """Doubt of each identity (num_classes,): the sum over its images (N,)."""
    return np.bincount(label, doubt, num_classes).astype(np.float64)
