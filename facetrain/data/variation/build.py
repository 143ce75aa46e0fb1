"""Make the variation file of a data set from whatever is known about its images."""

from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.errors import ConfigError, DataError
from facetrain.core.lock import file_lock
from facetrain.core.progress import progress
from facetrain.data.dataset import FaceDataset
from facetrain.data.shards.shard_list import ShardList
from facetrain.data.variation.labels import UNKNOWN, VARIATION_FILE, Variations, save_variations
from facetrain.data.variation.sources import (
    SHARPNESS_NAMES,
    attribute_variations,
    blur_levels,
    read_poses,
    sharpness,
    synthetic_variations,
)

_LABELS = "labels.npz"
_SIZE = 112


def build_variations(
    data: Path,
    out: Path | None = None,
    *,
    landmarks: Path | None = None,
    attributes: Path | None = None,
    listing: Path | None = None,
    blur: bool = False,
) -> dict[str, Any]:
    """Write `variation.npz` of a data set; return images per factor and level.

    Args:
        data: a `.rec` file or a folder of shards. Rendered faces have their exact labels beside
            them, which are used unless something else is asked for.
        out: by default `variation.npz` beside the shards.
        landmarks: CSV image,x1,...,y5: pose.
        attributes: CSV image,<factor>,...: any factors.
        listing: `.lst` (key, label, name) that gives the names in those CSVs their rows.
        blur: judge how blurred each image is by its sharpness; decodes every image.

    Raises:
        ConfigError: nothing to make labels from, or names for no CSV.
        DataError: a file that does not fit the data set.
    """
    if listing is not None and landmarks is None and attributes is None:
        raise ConfigError(
            "--list names the images of --landmarks CSV or --attributes CSV; give one"
        )
    dataset = FaceDataset.open(data, on_corrupt="skip")
    folder = data if data.is_dir() else data.parent
    names = None if listing is None else _listed_names(listing, dataset.num_rows)
    parts: list[Variations] = []
    if landmarks is not None:
        parts.append(read_poses(landmarks, names, dataset.num_rows))
    if blur:
        parts.append(_measured_blur(dataset))
    if attributes is not None:
        parts.append(attribute_variations(attributes, names, dataset.num_rows))
    if not parts and (folder / _LABELS).is_file():
        parts.append(synthetic_variations(folder / _LABELS))
    if not parts:
        raise ConfigError(
            f"{data}: variation labels need a source, and there is no {_LABELS} beside it; give "
            "--landmarks CSV, --attributes CSV or --blur"
        )
    level = {name: column for part in parts for name, column in part.level.items()}
    if any(len(column) != dataset.num_rows for column in level.values()):
        raise DataError(f"{folder / _LABELS}: must cover the {dataset.num_rows} images of {data}")
    variations = Variations(level, {n: v for part in parts for n, v in part.names.items()})
    target = out or folder / VARIATION_FILE
    with file_lock(target):
        save_variations(target, variations)
    return {
        factor: ", ".join(f"{name} {number}" for name, number in counts.items())
        for factor, counts in variations.counts().items()
    }


def _measured_blur(dataset: FaceDataset) -> Variations:
    level = np.full(dataset.num_rows, UNKNOWN, np.int8)
    images = progress(range(dataset.num_images), "sharpness", unit="img")
    sharp = np.array([sharpness(dataset.decode(index, _SIZE)) for index in images])
    level[dataset.row] = blur_levels(sharp)
    return Variations({"blur": level}, {"blur": SHARPNESS_NAMES})


def _listed_names(path: Path, num_rows: int) -> list[str]:
    """Image names of a `.lst` in the order of its keys, which is that of the records."""
    names = [name for _, name in sorted(ShardList(path).by_key.items())]
    if len(names) != num_rows:
        raise DataError(
            f"{path}: must be a .lst (key, label, name by tabs) of the {num_rows} images of the "
            f"data set, but names {len(names)}"
        )
    return names
