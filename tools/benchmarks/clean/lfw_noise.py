"""Noisy sources and targets from LFW features, on disjoint identities.

    python -m tools.benchmarks.clean.lfw_noise FEATURES_FOLDER OUT --seeds 0 1 2

FEATURES_FOLDER holds `features_<model>.npz` (embedding, label). For each seed 125 identities with
at least five images become the target, all others the source. The target's noise:

  flip20, flip40                    as `facetrain corrupt --flip 0.2`: images of other target
                                    identities, each class its own rate
  uniform20, uniform30, uniform40   images of one-image identities and of other target identities,
                                    half each, replace as many of a class's own
  added20, added40                  the same noise beside all of a class's own images: each class
                                    gets that share of strangers and of copies of others' images
  structured                        as `facetrain corrupt --structured 0.25`: each class its own
                                    rate up to 48 %, all of it from one or two other identities
  clean                             none

The source gets 10 % flips, 10 % outliers and 5 % structured noise, planted once.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.rng import numpy_generator
from facetrain.data.features import Features, load_features, save_features
from facetrain.data.noise.plant import NoiseConfig, plant
from tools.benchmarks.common import make_parser

NUM_TARGET, LEAST_IMAGES = 125, 5


class Target(NamedTuple):
    """Rows of the features with the labels they are given, and the truth about these."""

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    is_clean: NDArray[np.bool_]


def plant_uniform(
    clean: Target, outside: NDArray[np.int64], rate: float, generator: np.random.Generator
) -> Target:
    """Half of the noise flips inside the target, half rows `outside` of it in place of others."""
    inside, label, _ = clean
    rows, noisy, is_clean = inside.copy(), label.copy(), np.ones(len(label), np.bool_)
    chosen = generator.permutation(len(label))[: round(rate * len(label))]
    is_clean[chosen] = False
    flips, outliers = np.array_split(chosen, 2)
    num_classes = int(label.max()) + 1
    step = generator.integers(1, num_classes, len(flips))
    noisy[flips] = (label[flips] + step) % num_classes
    rows[outliers] = generator.permutation(outside)[: len(outliers)]
    return Target(rows, noisy, is_clean)


def add_uniform(
    clean: Target, outside: NDArray[np.int64], rate: float, generator: np.random.Generator
) -> Target:
    """Like `plant_uniform`, but every class keeps its images and gets noise up to `rate` of it."""
    inside, label, _ = clean
    size = np.bincount(label)
    count = np.round(rate / (1 - rate) * size).astype(np.int64)
    strangers = np.split(generator.permutation(outside), np.cumsum(count // 2))
    rows, noisy = [inside], [label]
    for one, total in enumerate(count):
        flips = generator.permutation(inside[label != one])[: total - len(strangers[one])]
        rows += [strangers[one], flips]
        noisy.append(np.full(len(strangers[one]) + len(flips), one))
    is_clean = np.arange(size.sum() + count.sum()) < len(inside)
    return Target(np.concatenate(rows), np.concatenate(noisy), is_clean)


def main() -> None:
    """Parse, split, plant, write."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("features", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.features.glob("features_*.npz")):
        for seed in arguments.seeds:
            write_sets(
                load_features(path), path.stem.removeprefix("features_"), seed, arguments.out
            )


def write_sets(features: Features, model: str, seed: int, out: Path) -> None:
    """One split of one model's features."""
    generator = numpy_generator(seed, "lfw noise")
    size = np.bincount(features.label)
    large, single = np.flatnonzero(size >= LEAST_IMAGES), np.flatnonzero(size == 1)
    target = np.sort(generator.permutation(large)[:NUM_TARGET])
    strangers = generator.permutation(single)[: len(single) // 3]
    inside = np.flatnonzero(np.isin(features.label, target))
    outside = np.flatnonzero(np.isin(features.label, strangers))
    rest = ~np.isin(features.label, np.concatenate([target, strangers]))

    known = plant(
        features.label[rest], NoiseConfig(flip=0.1, outlier=0.1, structured=0.05, seed=seed)
    )
    source = Features(features.embedding[rest], known.label, known.is_clean).take(known.kept)
    save_features(out / f"source_{model}_{seed}.npz", source)

    label = np.searchsorted(target, features.label[inside])
    clean = Target(inside, label, np.ones(len(label), np.bool_))
    sets = {"clean": clean}
    for percent in (20, 30, 40):
        sets[f"uniform{percent}"] = plant_uniform(clean, outside, percent / 100, generator)
    for percent in (20, 40):
        sets[f"added{percent}"] = add_uniform(clean, outside, percent / 100, generator)
    for name, noise in (
        ("flip20", NoiseConfig(flip=0.2, seed=seed)),
        ("flip40", NoiseConfig(flip=0.4, seed=seed)),
        ("structured", NoiseConfig(structured=0.25, seed=seed)),
    ):
        planted = plant(label, noise)
        sets[name] = Target(inside, planted.label, planted.is_clean)
    for name, (rows, noisy, is_clean) in sets.items():
        noisy_set = Features(features.embedding[rows], noisy, is_clean)
        save_features(out / f"target_{model}_{name}_{seed}.npz", noisy_set)


if __name__ == "__main__":
    main()
