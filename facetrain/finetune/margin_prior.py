"""The part of the margin that is not learned: more for what is rare, identities or images.

The supplement of MvCoM does not give its form. Two that the long-tail literature knows:

    ldam               m_c ~ n_c^(-1/4)                        (Cao et al., NeurIPS 2019)
    effective_number   m_c ~ sigma_c = (1 - beta) / (1 - beta^n_c), within [0.7, 1.4] of its mean
                       (Cui et al., CVPR 2019; beta = 0.9999 as in Jamal et al., CVPR 2020)

Both are scaled so that their mean over the images is the head's own margin: an average image is
trained as before.

`variation` (ours) does for images what these do for identities: the rarer the levels of an image
over all factors, pose, occlusion, blur and group, the larger its margin.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

ClassPrior = Literal["ldam", "effective_number", "none"]
Prior = Literal["ldam", "effective_number", "variation", "none"]
Floats = NDArray[np.float64]

_BETA = 0.9999
_LEAST, _MOST = 0.7, 1.4  # of the mean: without a bound sigma_c is nearly 1 / n_c


def class_margins(
    count: NDArray[np.integer], kind: ClassPrior, base_margin: float, max_margin: float
) -> Floats:
    """The margin of each class, (num_classes,), in units of cosine.

    Args:
        count: (num_classes,) images of each class, at least 1.
        kind: see above; `none` gives every class the base margin.
        base_margin: the mean over images.
        max_margin: no class gets more.
    """
    count = np.asarray(count, np.float64)
    assert (count >= 1).all(), "a class without images"
    if kind == "none":
        weight = np.ones_like(count)
    elif kind == "ldam":
        weight = count**-0.25
    else:
        sigma = (1 - _BETA) / (1 - _BETA**count)
        weight = np.clip(sigma / np.average(sigma, weights=count), _LEAST, _MOST)
    scaled = base_margin * weight / np.average(weight, weights=count)
    return np.asarray(np.minimum(scaled, max_margin))


def variation_margins(
    level: NDArray[np.integer], base_margin: float, spread: float, max_margin: float
) -> Floats:
    """The margin of each image by the rarity of its levels, (N,), in units of cosine.

    base_margin + spread * c / max |c|, c being sum_k -log(share of level k) less its mean: the mean
    margin is base_margin, none is further from it than `spread`, and one of them is that far. An
    unknown level counts as an average one of its factor.

    Args:
        level: (N, K), -1 unknown.
        base_margin: the mean over images.
        spread: largest distance from it.
        max_margin: no image gets more, and none less than 0.
    """
    rarity = np.zeros(len(level))
    for column in level.T:
        known = column >= 0
        if known.any():
            share = np.bincount(column[known]) / known.sum()
            surprise = -np.log(share[column[known]])
            rarity[known] += surprise - surprise.mean()
    rarity -= rarity.mean()
    furthest = np.abs(rarity).max(initial=0.0)
    scaled = base_margin + (spread * rarity / furthest if furthest else rarity)
    return np.asarray(np.clip(scaled, 0.0, max_margin))
