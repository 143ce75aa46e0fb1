"""Wrong labels of small classes, planted into features: double names, swaps, lone faces.

    python -m tools.benchmarks.clean.small_classes features.npz OUT.npz --seed 0

A third of the identities with four or more images is divided into two labels at a random place; a
quarter of the two-image identities exchanges one image in pairs; of a tenth of the identities with
three or more images one image stands alone under a name of its own. OUT holds `embedding`, `label`
and the truth: `person` (N,), and `swapped` (N,) the label of the class it was exchanged with, -1.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.rng import numpy_generator
from facetrain.data.features import load_features
from tools.benchmarks.common import make_parser

Ints = NDArray[np.int64]


class Planted(NamedTuple):
    """Labels (N,) and what was done to them."""

    label: Ints
    swapped: Ints  # the class an image was exchanged with, -1


def plant_small(person: Ints, seed: int) -> Planted:
    """Divide, exchange and set apart identities of `person` (N,), 0 to C - 1."""
    generator = numpy_generator(seed, "small classes")
    size = np.bincount(person)
    label, swapped = person.copy(), np.full(len(person), -1)
    free = len(size)

    def chosen(which: NDArray[np.bool_], share: float) -> Ints:
        found = generator.permutation(np.flatnonzero(which))
        return found[: int(share * len(found))]

    divided = chosen(size >= 4, 1 / 3)
    for number, one in enumerate(divided):
        rows = generator.permutation(np.flatnonzero(person == one))
        label[rows[: generator.integers(1, len(rows))]] = free + number
    free += len(divided)
    pairs = chosen(size == 2, 1 / 4)
    pairs = pairs[: len(pairs) // 2 * 2].reshape(-1, 2)
    for first, second in pairs:
        row = [generator.choice(np.flatnonzero(person == one)) for one in (first, second)]
        label[row] = second, first
        swapped[row] = second, first
    alone = chosen((size >= 3) & ~np.isin(np.arange(len(size)), divided), 1 / 10)
    for number, one in enumerate(alone):
        label[generator.choice(np.flatnonzero(person == one))] = free + number
    return Planted(label, swapped)


def main() -> None:
    """Parse, plant, write."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("features", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    features = load_features(arguments.features)
    _, person = np.unique(features.label, return_inverse=True)
    planted = plant_small(person.astype(np.int64), arguments.seed)
    np.savez(arguments.out, embedding=features.embedding, person=person, **planted._asdict())


if __name__ == "__main__":
    main()
