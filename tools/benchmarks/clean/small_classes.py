"""Wrong labels of small classes, planted into features: double names, swaps, lone faces.

    python -m tools.benchmarks.clean.small_classes FEATURES_FOLDER --seeds 0 1 --json F

FEATURES_FOLDER holds `features_<model>.npz` (embedding, label). A third of the identities with
four or more images is divided into two labels at a random place; a quarter of the two-image
identities exchanges one image in pairs; of a tenth of the identities with three or more images one
image stands alone under a name of its own. `facetrain.clean_labels` with `gcn=False` then sees all
of them and no source. Columns: labels that should be joined, those that are named, precision and
recall; pairs that changed places, those named, and those rightly named.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import facetrain
from facetrain.core.rng import numpy_generator
from facetrain.data.cleaning_result import CleaningResult, Reason
from facetrain.data.features import load_features
from tools.benchmarks.common import machine, make_parser, markdown_table, write_report

MODELS = ("mobilefacenet", "dlib")
Ints = NDArray[np.int64]


class Planted(NamedTuple):
    """Labels (N,) and what was done to them."""

    label: Ints
    swapped: NDArray[np.bool_]  # has changed places with another


def plant_small(person: Ints, seed: int) -> Planted:
    """Divide, exchange and set apart identities of `person` (N,), 0 to C - 1."""
    generator = numpy_generator(seed, "small classes")
    size = np.bincount(person)
    label, swapped = person.copy(), np.zeros(len(person), np.bool_)
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
        swapped[row] = True
    alone = chosen((size >= 3) & ~np.isin(np.arange(len(size)), divided), 1 / 10)
    for number, one in enumerate(alone):
        label[generator.choice(np.flatnonzero(person == one))] = free + number
    return Planted(label, swapped)


def double_names(result: CleaningResult, person: Ints, label: Ints) -> dict[str, float]:
    """How many labels of people who have two of them are joined with the other one."""
    into = np.arange(label.max() + 1)
    named = np.flatnonzero(result.merge_label >= 0)
    into[label[named]] = result.merge_label[named]
    # Of most of a class's images; a swapped image is in the minority or one of two.
    votes = np.zeros((len(into), person.max() + 1), np.int32)
    np.add.at(votes, (label, person), 1)
    owner = votes.argmax(1)
    planted = np.arange(person.max() + 1, len(into))  # the other label has the person's own number
    joined = int((into[planted] == into[owner[planted]]).sum())
    moved = np.flatnonzero(into != np.arange(len(into)))
    right = int((owner[moved] == owner[into[moved]]).sum())
    return {
        "labels": len(planted),
        "named": len(moved),
        "precision": right / max(len(moved), 1),
        "recall": joined / max(len(planted), 1),
    }


def swaps(result: CleaningResult, person: Ints, planted: Planted) -> dict[str, float]:
    """How many pairs of classes that exchanged an image are named."""
    label = planted.label

    def pairs(first: Ints, second: Ints) -> set[tuple[int, int]]:
        found = set(zip(first.tolist(), second.tolist(), strict=True))
        return {(a, b) for a, b in found if a < b and (b, a) in found}

    moved = planted.swapped
    told = result.reason == Reason.OTHER_IDENTITY
    true = pairs(person[moved], label[moved])
    named = pairs(label[told], result.suggested_label[told])
    return {"pairs": len(true), "pairs named": len(named), "rightly": len(true & named)}


def main() -> None:
    """Parse, plant, clean, print."""
    parser = make_parser(__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        features = load_features(arguments.features / f"features_{model}.npz")
        person = np.unique(features.label, return_inverse=True)[1].astype(np.int64)
        for seed in arguments.seeds:
            planted = plant_small(person, seed)
            result = facetrain.clean_labels(features.embedding, planted.label, gcn=False)
            found = {
                **double_names(result, person, planted.label),
                **swaps(result, person, planted),
            }
            rows.append({"model": model, "seed": seed, **found})
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    print(markdown_table(list(rows[0]), cells))
    write_report({**machine(), "rows": rows}, arguments.json, show=False)


if __name__ == "__main__":
    main()
