"""Noise with known truth, planted anew into images whose labels are believed.

A cleaner sees each draw once. With few identities that is worth more than any regulariser.
"""

import numpy as np
from numpy.typing import NDArray

from facetrain.core.rng import derive_seed, numpy_generator
from facetrain.data.noise.plant import STRUCTURED, NoiseConfig, plant_at_most

_LEAST_OWN = 4


def fresh_noise(
    label: NDArray[np.int64], trusted: NDArray[np.bool_], seed: int, *parts: int | str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One draw of noisy labels (N,), -1 where an image is absent, and their truth (N,).

    Rates and kinds vary from draw to draw, up to half of all images, since a target's are unknown:
    flips with outliers, flips alone, structured noise, all three. After structured noise either
    some of the people it came from leave, so that it comes from strangers with many images, or
    some classes lose part of their own images, so that the owner need not be the largest group.

    Args:
        label: (N,) as the data set has them.
        trusted: (N,) images whose label is believed; the others are absent.
        seed: with `parts`, names the draw.
    """
    generator = numpy_generator(seed, "fresh noise", *parts)
    config = NoiseConfig(**_rates(generator), seed=derive_seed(seed, *parts))
    planted = plant_at_most(label, config, trusted)
    noisy = np.where(planted.kept & trusted, planted.label, -1)
    if config.structured > 0:
        moved = planted.kind == STRUCTURED
        choice = generator.random()
        if choice < 0.4:
            donors = np.unique(planted.true_label[moved])
            leaving = donors[generator.random(len(donors)) < 0.5]
            noisy[np.isin(noisy, leaving)] = -1
        elif choice < 0.7:
            _thin(noisy, planted.is_clean, np.unique(planted.label[moved]), generator)
    return noisy, planted.is_clean


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


def _thin(
    label: NDArray[np.int64],
    is_clean: NDArray[np.bool_],
    receivers: NDArray[np.int64],
    generator: np.random.Generator,
) -> None:
    """Take up to half of their own images from half of the `receivers`, in place."""
    own = np.bincount(label[(label >= 0) & is_clean], minlength=label.max() + 1)
    share = np.zeros(len(own))
    chosen = receivers[(generator.random(len(receivers)) < 0.5) & (own[receivers] > _LEAST_OWN)]
    share[chosen] = generator.uniform(0, 0.5, len(chosen))
    label[is_clean & (label >= 0) & (generator.random(len(label)) < share[label])] = -1
