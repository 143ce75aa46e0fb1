"""The class-aware part of the margin: more for identities with few images.

The supplement of MvCoM does not give its form. Two that the long-tail literature knows:

    ldam               m_c ~ n_c^(-1/4)                        (Cao et al., NeurIPS 2019)
    effective_number   m_c ~ sigma_c = (1 - beta) / (1 - beta^n_c), within [0.7, 1.4] of its mean
                       (Cui et al., CVPR 2019; beta = 0.9999 as in Jamal et al., CVPR 2020)

Both are scaled so that their mean over the images is the head's own margin: an average image is
trained as before.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Prior = Literal["ldam", "effective_number", "none"]
Floats = NDArray[np.float64]

_BETA = 0.9999
_LEAST, _MOST = 0.7, 1.4  # of the mean: without a bound sigma_c is nearly 1 / n_c


def class_margins(
    count: NDArray[np.integer], kind: Prior, base_margin: float, max_margin: float
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
