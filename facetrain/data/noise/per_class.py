"""How many noisy images arrive in each class: a rate of its own for every class, an exact total."""

import numpy as np
from numpy.typing import NDArray

_LEAST_RATE = 1e-6  # keeps a class with a rate of almost nothing as a last resort


def noise_per_class(
    total: int,
    rate: float,
    size: NDArray[np.int64],
    most: NDArray[np.int64],
    generator: np.random.Generator,
    concentration: float = 8.0,
) -> NDArray[np.int64]:
    """(C,) images that arrive in each class: `total` in all, or as many as `most` lets in.

    Class c draws a rate r_c from a Beta distribution of mean `rate` and receives in proportion to
    size_c * r_c, rounded at random to one image up or down; what a full class cannot take goes to
    the others in the same proportion.

    Args:
        total: images to place.
        rate: mean of the class rates, in [0, 1).
        size: (C,) images of each class.
        most: (C,) the most each class may receive; 0 shuts it out.
        concentration: of the Beta distribution; rates deviate by
            sqrt(rate * (1 - rate) / (concentration + 1)).
    """
    if total == 0:
        return np.zeros(len(size), np.int64)
    drawn = generator.beta(concentration * rate, concentration * (1 - rate), len(size))
    weight = size * np.maximum(drawn, _LEAST_RATE)  # (C,)
    count = np.zeros(len(size), np.int64)
    while (left := total - int(count.sum())) > 0:
        open_weight = np.where(count < most, weight, 0.0)
        whole = open_weight.sum()
        if whole == 0:
            break
        # One random offset for the running sum rounds every share to a neighbouring integer
        # while their sum stays exact.
        edge = np.floor(np.cumsum(open_weight * (left / whole)) + generator.random())
        step = np.diff(np.minimum(edge, left), prepend=0).astype(np.int64)
        count += np.minimum(step, most - count)
    return count
