"""The numbers of mvcom/run.py: TAR on tail levels, paired differences, margins over rarity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from facetrain.core.rng import numpy_generator
from facetrain.data.batches.loader import OrderedLoader
from facetrain.data.dataset import FaceDataset
from facetrain.data.variation.labels import VARIATION_FILE, load_variations
from facetrain.engine.inference import embed_images
from facetrain.metrics.verification import tar_at_far
from facetrain.models.weights import load_backbone

FAR = "1e-3"
_PERMUTATIONS = 10_000
Levels = Mapping[str, NDArray[np.intp]]


def embeddings(backbone: Path, dataset: FaceDataset) -> NDArray[np.float32]:
    """(N, D) unit rows, image and mirror image added."""
    model = load_backbone(backbone)
    loader = OrderedLoader(dataset, model.image_size, 192, 0, dataset.num_images, workers=0)
    parts = [embed_images(model, batch.image, torch.device("cpu"), flip=True) for batch in loader]
    return np.asarray(torch.nn.functional.normalize(torch.cat(parts), dim=1).numpy())


def score_test_set(backbone: Path, data: Path, tails: Levels) -> dict[str, Any]:
    """TAR at FAR 1e-3 over all pairs of a test set, and over those with each level.

    Args:
        tails: factor -> its tail levels.
    """
    dataset = FaceDataset.open(data)
    variations = load_variations(data / VARIATION_FILE, dataset.num_rows).take(dataset.row)
    unit = embeddings(backbone, dataset)
    first, second = np.triu_indices(len(unit), 1)
    distance = (2 - 2 * (unit @ unit.T)[first, second]).astype(np.float64)
    same = dataset.label[first] == dataset.label[second]
    levels: dict[str, dict[str, float | None]] = {}
    for factor, level in variations.level.items():
        levels[factor] = {}
        for number, name in enumerate(variations.names[factor]):
            has = (level[first] == number) | (level[second] == number)
            levels[factor][name] = tar_at_far(distance[has], same[has])[FAR]
    tail = [
        levels[factor][variations.names[factor][number]]
        for factor, numbers in tails.items()
        for number in numbers.tolist()
    ]
    assert all(one is not None for one in tail), "too few impostor pairs for this FAR"
    return {
        "overall_tar": tar_at_far(distance, same)[FAR],
        "tail_tar": float(np.mean([one for one in tail if one is not None])),
        "levels": levels,
    }


def paired_line(what: str, one: Sequence[float], other: Sequence[float]) -> str:
    """The mean difference over seeds, its standard error, and a paired t-test."""
    difference = np.subtract(one, other)
    text = f"{what}: {difference.mean():+.4f}"
    if len(difference) < 2:
        return text
    error = difference.std(ddof=1) / len(difference) ** 0.5
    p_value = stats.ttest_rel(one, other).pvalue
    wins = int((difference > 0).sum())
    return f"{text} +- {error:.4f} (s.e.), {wins} of {len(difference)} seeds, p = {p_value:.3f}"


def margin_rank_test(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rank correlation of each level's mean residual with its rarity, tested by permutation.

    The statistic is Spearman's rho within a factor, averaged over factors. Levels are the unit:
    under the null hypothesis the rarities within a factor could stand in any order.

    Args:
        runs: of each seed, factor -> `residual` and `share`, (levels,) each.
    """
    means = {
        factor: {
            name: np.nanmean([run[factor][name] for run in runs], axis=0)
            for name in ("residual", "share")
        }
        for factor in runs[0]
    }

    def rho(order: Mapping[str, NDArray[Any]]) -> list[float]:
        return [
            float(stats.spearmanr(one["residual"], -one["share"][order[factor]]).statistic)
            if np.ptp(one["residual"]) > 0
            else 0.0  # margins that do not differ follow nothing
            for factor, one in means.items()
        ]

    found = rho({factor: np.arange(len(one["share"])) for factor, one in means.items()})
    rng = numpy_generator(0, "margin rank test")
    null = [
        float(np.mean(rho({f: rng.permutation(len(one["share"])) for f, one in means.items()})))
        for _ in range(_PERMUTATIONS // 10)
    ]
    p_value = (1 + sum(value >= np.mean(found) for value in null)) / (1 + len(null))
    each = dict(zip(means, found, strict=True))
    shown = ", ".join(f"{factor} {value:+.2f}" for factor, value in each.items())
    return {
        "spearman": each,
        "mean": float(np.mean(found)),
        "p_value": p_value,
        "levels": {
            factor: {name: value.tolist() for name, value in one.items()}
            for factor, one in means.items()
        },
        "text": f"residual over rarity, Spearman: {shown}; mean {np.mean(found):+.2f}, "
        f"p = {p_value:.4f}",
    }
