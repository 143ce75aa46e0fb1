"""The data of mvcom/run.py: long-tailed training faces, a meta set, and a balanced test set."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.core.rng import numpy_generator
from facetrain.data.batches.augment import augment
from facetrain.data.batches.planted_variation import (
    PLANTED_BLURS,
    PLANTED_OCCLUSIONS,
    PlantConfig,
    draw_planted,
    planted,
)
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.shards.face_shard import FaceShardWriter, write_property
from facetrain.data.synthetic import Sample, SyntheticConfig, all_samples, write_synthetic
from facetrain.data.variation.labels import (
    VARIATION_FILE,
    Variations,
    load_variations,
    save_variations,
)
from facetrain.data.variation.sources import synthetic_variations

TAIL_SHARE = 0.1
"""A level that fewer of the training images show is a tail level."""
_LONG_TAILED_PLANT = {
    "blur_shares": (0.80, 0.10, 0.06, 0.04),
    "occlusion_shares": (0.80, 0.05, 0.05, 0.05, 0.05),
}
_LONG_TAILED = {
    "pose_shares": (0.02, 0.05, 0.13, 0.60, 0.13, 0.05, 0.02),
    "occlusion_shares": (0.85, 0.06, 0.03, 0.03, 0.03),
    "blur_shares": (0.80, 0.10, 0.06, 0.04),
    "group_shares": (0.70, 0.15, 0.09, 0.06),
}


def _write(folder: Path, config: SyntheticConfig, samples: list[Sample] | None) -> Path:
    if not (folder / VARIATION_FILE).is_file():
        write_synthetic(folder, config, samples, quiet=True)
        save_variations(folder / VARIATION_FILE, synthetic_variations(folder / "labels.npz"))
    return folder


def _balanced(config: SyntheticConfig) -> list[Sample]:
    """The images of `config` with levels drawn evenly, whatever its shares."""
    rng = numpy_generator(config.seed, "balanced", config.first_identity)
    return [
        Sample(s.identity, s.sample, *(int(rng.integers(n)) for n in (7, 5, 4)))
        for s in all_samples(config)
    ]


def synthetic_sets(folder: Path, seed: int, identities: tuple[int, int, int]) -> list[Path]:
    """Folders of the training, meta and test sets, rendered when they are not there yet.

    Args:
        identities: of each set. The training identities have 6 to 40 images.
    """
    shared = {"seed": seed, "size": 48, "difficulty": 0.5}
    train_count, meta_count, test_count = identities
    train = SyntheticConfig(
        **shared, **_LONG_TAILED, num_identities=train_count, min_images=6, max_images=40
    )
    even = {"group_shares": (1, 1, 1, 1), "min_images": 16, "max_images": 16}
    meta = SyntheticConfig(**shared, **even, num_identities=meta_count, first_identity=train_count)
    test = SyntheticConfig(
        **shared, **even, num_identities=test_count, first_identity=train_count + meta_count
    )
    return [
        _write(folder / "train", train, None),
        _write(folder / "meta", meta, _balanced(meta)),
        _write(folder / "test", test, _balanced(test)),
    ]


def tail_levels(train: Path) -> dict[str, NDArray[np.intp]]:
    """Factor -> the levels that fewer than `TAIL_SHARE` of the training images show."""
    found = load_variations(train / VARIATION_FILE, FaceDataset.open(train).num_rows)
    shares = {name: level_shares(found, name) for name in found.factors}
    return {name: np.flatnonzero(share < TAIL_SHARE) for name, share in shares.items()}


def level_shares(variations: Variations, factor: str) -> NDArray[np.float64]:
    """The share of each level among the known ones."""
    level = variations.level[factor]
    count = np.bincount(level[level >= 0], minlength=len(variations.names[factor]))
    return np.asarray(count / max(count.sum(), 1))


def lfw_sets(folder: Path, out: Path, seed: int) -> list[Path]:
    """Training, meta and test sets of real faces, with planted blur and occlusion.

    People with two images or more, cut into three by the seed: 60 % to train on, with long-tailed
    levels, 15 % to learn margins from and 25 % to test on, with even ones. The planted level is
    exact; what blurs or hides the faces besides is in no label.
    """
    dataset = FaceDataset.open(folder / "train.rec")
    count = np.bincount(dataset.label)
    rng = numpy_generator(seed, "lfw people")
    people = rng.permutation(np.flatnonzero(count >= 2))
    cut = np.cumsum([int(0.6 * len(people)), int(0.15 * len(people))])
    plants = (PlantConfig(**_LONG_TAILED_PLANT), PlantConfig(), PlantConfig())
    folders = [out / name for name in ("train", "meta", "test")]
    for part, chosen, plant in zip(folders, np.split(people, cut), plants, strict=True):
        if not (part / VARIATION_FILE).is_file():
            _write_planted(dataset, part, np.sort(chosen), plant, seed)
    return folders


def _write_planted(
    dataset: FaceDataset, out: Path, people: NDArray[np.intp], plant: PlantConfig, seed: int
) -> None:
    rows = np.flatnonzero(np.isin(dataset.label, people))
    rows = rows[np.argsort(dataset.label[rows], kind="stable")]
    level = draw_planted(plant, len(rows), seed, int(people[0]))
    out.mkdir(parents=True, exist_ok=True)
    with FaceShardWriter(out / "train.rec") as writer:
        for index, one in zip(rows.tolist(), level, strict=True):
            image = torch.from_numpy(dataset.decode(index, 112)).permute(2, 0, 1)[None]
            changed = augment(image, planted(one[None], 112))[0].permute(1, 2, 0)
            pixels = ((changed + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
            writer.write(int(dataset.label[index]), encode_jpeg(pixels, 92))
    write_property(out, len(people), 112)
    column = level.numpy().astype(np.int8)
    save_variations(
        out / VARIATION_FILE,
        Variations(
            {"blur": column[:, 0], "occlusion": column[:, 1]},
            {"blur": PLANTED_BLURS, "occlusion": PLANTED_OCCLUSIONS},
        ),
    )
