"""A cleaning small enough to count by hand, as a run on disk."""

import dataclasses
from pathlib import Path

import numpy as np
from helpers.cleaning_results import everything_kept
from helpers.shards import write_shard

from facetrain.core.artifact import write_manifest
from facetrain.core.config import Config
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import Reason
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.overlay import LabelOverlay

# Classes 10, 20, 30 of four images. Image 3 is of 20 and claimed to be of 10, image 7 of 30 and
# claimed to be of 20; the cleaner drops 3 rightly, 11 wrongly, and misses 7.
CLASS_IDS = np.array([10, 20, 30])
LABEL = np.repeat([0, 1, 2], 4)
TRUE_LABEL = CLASS_IDS[np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2])]
PROBABILITY = np.array([0.9, 0.8, 0.95, 0.1, 0.9, 0.9, 0.9, 0.7, 0.9, 0.9, 0.9, 0.3], np.float32)
SUGGESTED = np.array([-1, -1, -1, 1, -1, -1, -1, -1, -1, -1, -1, 0])
RESULT = dataclasses.replace(
    everything_kept(12, 3),
    clean_probability=PROBABILITY,
    kept=PROBABILITY > 0.5,
    suggested_label=np.where(SUGGESTED >= 0, CLASS_IDS[SUGGESTED], -1),
    suggested_probability=np.where(SUGGESTED >= 0, 0.9, 0).astype(np.float32),
    reason=np.where(PROBABILITY > 0.5, Reason.CLEAN, Reason.OTHER_IDENTITY).astype(np.uint8),
    class_id=CLASS_IDS,
)


class Settings(Config):
    """What a stage of a run had."""

    data: DataConfig | None = None


def grey(image: int) -> np.ndarray:
    return np.full((16, 16, 3), 20 * image, np.uint8)


def write_run(folder: Path) -> Path:
    """A run as far as the stage `clean`, its noise planted by an overlay with a truth."""
    faces, noise, run = folder / "faces", folder / "noise", folder / "run"
    write_shard(faces / "train.rec", TRUE_LABEL, [encode_jpeg(grey(i)) for i in range(12)])
    LabelOverlay.make(CLASS_IDS[LABEL], np.ones(12, bool)).save(noise / "overlay.npz")
    np.savez(noise / "truth.npz", true_label=TRUE_LABEL, is_clean=CLASS_IDS[LABEL] == TRUE_LABEL)
    data = DataConfig(path=faces, overlay=(noise / "overlay.npz",))
    times = {"started": 0.0, "world_size": 1}
    metrics = {"num_images": 12, "num_classes": 3}
    write_manifest(run / "train", "train", Settings(data=data), {}, metrics, **times)  # type: ignore[arg-type]
    RESULT.save(run / "clean" / "clean.npz")
    LabelOverlay.make(CLASS_IDS[LABEL], RESULT.kept).save(run / "clean" / "overlay.npz")
    finish_cleaning(run, FaceDataset.open(data.path, data.overlay).fingerprint)
    return run


def finish_cleaning(run: Path, data: str) -> None:
    """Write the manifest of the stage `clean`, of a data set with this fingerprint."""
    metrics = {"num_images": 12, "num_dropped": 2}
    times = {"started": 0.0, "world_size": 1}
    write_manifest(run / "clean", "clean", Settings(), {"data": data}, metrics, **times)  # type: ignore[arg-type]


def opened(run: Path) -> CleanedSet:
    noise = run.parent / "noise" / "overlay.npz"
    return CleanedSet.open(run / "clean", DataConfig(path=run.parent / "faces", overlay=(noise,)))
