"""Sets of few people, without a source: is noise found, and is it told whose the images are?

    python -m tools.benchmarks.clean.small_sets FEATURES_FOLDER --seeds 0 1 2 --json F

FEATURES_FOLDER holds `features_<model>.npz` (embedding, label). For each seed people with few
images are drawn, and a fifth of their images goes to others of them; in one kind a tenth goes to
strangers as well. `facetrain.clean_labels` with `gcn=False` then sees them and nothing else.
*told*: of the wrong labels whose owner is in the set, how many are given that owner; *wrongly*:
images given another one.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import facetrain
from facetrain.core.rng import numpy_generator
from facetrain.data.features import load_features
from facetrain.data.noise.plant import NoiseConfig, plant
from tools.benchmarks.clean.run import MESH, calibration, f1
from tools.benchmarks.common import machine, make_parser, markdown_table, write_report

MODELS = ("mobilefacenet", "dlib")


class Kind(NamedTuple):
    """How many people of how many images, and what is planted."""

    name: str
    people: int
    images: tuple[int, int]
    noise: dict[str, float]


KINDS = (
    Kind("40 people of 5 to 8", 40, (5, 8), {"flip": 0.2}),
    Kind("60 people of 3 to 5", 60, (3, 5), {"flip": 0.2}),
    Kind("20 people of 4 to 9, strangers", 20, (4, 9), {"flip": 0.2, "outlier": 0.1}),
    Kind("150 people of 2 and 3", 150, (2, 3), {"flip": 0.2}),
    Kind("40 people of 5 to 8, nothing to find", 40, (5, 8), {}),
)


def measured(
    embedding: NDArray[Any], label: NDArray[np.int64], true: NDArray[np.int64]
) -> dict[str, float]:
    """What cleaning finds in one set; `true` is -1 for a stranger."""
    result = facetrain.clean_labels(embedding, label, gcn=False)
    is_clean = label == true
    movable = ~is_clean & (true >= 0)
    told = ~result.kept & (result.suggested_label >= 0)
    return {
        "F1": f1(result.kept, is_clean),
        "told": float((told & (result.suggested_label == true))[movable].mean())
        if movable.any()
        else float("nan"),
        "wrongly": float((told & (result.suggested_label != true)).sum()),
        "calibration error": calibration(result.clean_probability, is_clean),
    }


def one_set(
    embedding: NDArray[Any], label: NDArray[np.int64], kind: Kind, seed: int
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Embeddings, given labels and true ones."""
    size, generator = np.bincount(label), numpy_generator(seed, kind.name)
    people = np.nonzero((size >= kind.images[0]) & (size <= kind.images[1]))[0]
    chosen = np.sort(generator.permutation(people)[: kind.people])
    row = np.nonzero(np.isin(label, chosen))[0]
    true = np.searchsorted(chosen, label[row]).astype(np.int64)
    if not kind.noise:
        return embedding[row], true, true
    planted = plant(true, NoiseConfig(**kind.noise, seed=seed))
    kept = planted.kept
    label, true = planted.label[kept], planted.true_label[kept]
    # Outliers are all images of people who have no class any more.
    return embedding[row][kept], label, np.where(np.isin(true, label), true, -1)


def main() -> None:
    """Parse, run, print."""
    parser = make_parser(__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        features = load_features(arguments.features / f"features_{model}.npz")
        for kind in KINDS:
            for seed in arguments.seeds:
                embedding, label, true = one_set(features.embedding, features.label, kind, seed)
                found = measured(embedding, label, true)
                rows.append({"model": model, "kind": kind.name, "seed": seed, **found})
    columns = ("F1", "told", "wrongly", "calibration error")
    lines = []
    for model in MODELS:
        for kind in KINDS:
            of_kind = [r for r in rows if (r["model"], r["kind"]) == (model, kind.name)]
            cells = [", ".join(f"{r[c]:.3g}" for r in of_kind) for c in columns]
            lines.append([model, kind.name, *cells])
    print(markdown_table(("", "set", *columns), lines))
    write_report({**machine(MESH.device), "rows": rows}, arguments.json, show=False)


if __name__ == "__main__":
    main()
