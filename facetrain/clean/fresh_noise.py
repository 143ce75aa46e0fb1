"""Noise with known truth, planted anew into images whose labels are taken for true.

A cleaner sees each draw once. With few identities that is worth more than any regulariser.
"""

import numpy as np
from numpy.typing import NDArray

from facetrain.core.rng import derive_seed, numpy_generator
from facetrain.data.noise.plant import STRUCTURED, NoiseConfig, plant_at_most

_LEAST_OWN = 4


def fresh_noise(label: NDArray[np.int64], seed: int, *parts: int | str) -> NDArray[np.int64]:
    """One draw of noisy labels (N,), -1 where an image is absent.

    Rates and kinds vary from draw to draw, up to half of all images, since a target's are unknown:
    flips with outliers, flips alone, structured noise, all three. After structured noise either
    some of the people it came from leave, so that it comes from strangers with many images, or
    some classes lose part of their own images, so that the owner need not be the largest group.

    Args:
        label: (N,) true ones, -1 for images that take no part.
        seed: with `parts`, names the draw.
    """
    generator = numpy_generator(seed, "fresh noise", *parts)
    config = NoiseConfig(**_rates(generator), seed=derive_seed(seed, *parts))
    planted = plant_at_most(label, config, label >= 0)
    noisy = np.where(planted.kept, planted.label, -1)
    if config.structured > 0:
        moved = planted.kind == STRUCTURED
        choice = generator.random()
        if choice < 0.4:
            donors = np.unique(label[moved])
            noisy[np.isin(noisy, donors[generator.random(len(donors)) < 0.5])] = -1
        elif choice < 0.7:
            own = (noisy >= 0) & (noisy == label)
            count = np.bincount(noisy[own], minlength=noisy.max() + 1)
            chosen = np.unique(planted.label[moved])
            chosen = chosen[(generator.random(len(chosen)) < 0.5) & (count[chosen] > _LEAST_OWN)]
            share = np.zeros(len(count))
            share[chosen] = generator.uniform(0, 0.5, len(chosen))
            noisy[own & (generator.random(len(noisy)) < share[noisy])] = -1
    return noisy


def _rates(generator: np.random.Generator) -> dict[str, float]:
    """Shares of flips, outliers and structured noise in one draw."""
    choice, uniform = generator.random(), generator.uniform
    if choice < 0.25:
        return {"flip": uniform(0, 0.25), "outlier": uniform(0, 0.25), "structured": 0.0}
    if choice < 0.45:
        return {"flip": uniform(0, 0.5), "outlier": 0.0, "structured": 0.0}
    if choice < 0.85:
        return {"flip": 0.0, "outlier": 0.0, "structured": uniform(0.02, 0.3)}
    return {
        "flip": uniform(0, 0.1), "outlier": uniform(0, 0.15), "structured": uniform(0.01, 0.2)
    }  # fmt: skip
