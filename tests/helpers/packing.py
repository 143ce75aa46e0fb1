"""Images to pack, and what a pack left."""

from pathlib import Path

import cv2
import numpy as np

from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions

SIZE = 24


def picture(seed: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Smooth noise: a picture that JPEG keeps nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def run(source: Path, out: Path, num_shards: int = 1, **options: object) -> dict:
    """What is counted, the speed left out."""
    options = {"size": SIZE, "show_progress": False, "workers": 1, **options}
    metrics = dict(pack(source, out, PackOptions(**options), num_shards).metrics)
    metrics.pop("images_per_second", None)
    return metrics


def files(out: Path) -> dict[str, bytes]:
    """Everything but the manifest, which holds times."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.name != "manifest.json"}
