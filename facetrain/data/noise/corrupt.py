"""Plant known noise into a data set, as an overlay with its truth, or into features."""

from pathlib import Path

import numpy as np

from facetrain.core.errors import ConfigError, DataError, OutputError
from facetrain.core.lock import file_lock
from facetrain.core.run_folder import OVERLAY_FILE, TRUTH_FILE
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import Features, load_features, save_features
from facetrain.data.files.npz_file import write_npz
from facetrain.data.noise.plant import NoiseConfig, PlantedNoise, plant
from facetrain.data.overlay import LabelOverlay


def corrupt(source: Path, out: Path, config: NoiseConfig) -> dict[str, int]:
    """Plant noise (see `noise.plant`) and write it with its truth; `source` stays as it is.

    A data set gives a label overlay and `truth.npz`: `is_clean` (N,) and `true_label` (N,) over
    all its rows. Features give features: `embedding`, `label`, `is_clean`, `true_label` and the
    further arrays they had, without the rows that are not kept. All rates 0 is a control: the same
    files, all clean.

    Args:
        source: a `.rec` file or a folder of shards; or a features `.npz`.
        out: an `.npz` to write, with `truth.npz` beside it; or a folder, for `overlay.npz` or
            `features.npz`.

    Returns:
        `num_images`, `num_identities`, images by kind (`clean`, `flip`, `outlier`, `structured`),
        and `dropped` (surplus images of a held-out identity, and unreadable records).

    Raises:
        ConfigError: a rate the classes cannot bear; `out` would overwrite what it must not.
        OutputError: `out` cannot be written.
        DataError: a source that cannot be read, or features that have noise already.
    """
    source, out = Path(source), Path(out)
    of_features = source.suffix == ".npz"
    target = out
    if out.suffix != ".npz":
        target = out / ("features.npz" if of_features else OVERLAY_FILE)
    if target.is_dir() or any(parent.is_file() for parent in target.parents):
        raise OutputError(
            f"--out {out}: must be writable as an .npz or a folder, but something else stands "
            "there; choose another"
        )
    if of_features:
        if target.exists() and source.exists() and target.samefile(source):
            raise ConfigError(f"--out {target}: must not be the source; choose another file")
        with file_lock(target):
            return _corrupt_features(source, target, config)
    if target.name == TRUTH_FILE:
        raise ConfigError(f"--out {target}: truth.npz holds the truth; name the overlay otherwise")
    with file_lock(target.with_name(TRUTH_FILE)), file_lock(target):
        return _corrupt_dataset(source, target, config)


def _corrupt_features(source: Path, target: Path, config: NoiseConfig) -> dict[str, int]:
    features = load_features(source)
    if features.is_clean is not None and not features.is_clean.all():
        raise DataError(
            f"{source}: noise is planted into clean labels, but is_clean says that "
            f"{np.count_nonzero(~features.is_clean)} of {len(features.label)} are noise; give "
            "features with clean labels"
        )
    planted = plant(features.label, config)
    extra = {**features.extra, "true_label": planted.true_label}
    noisy = Features(features.embedding, planted.label, planted.is_clean, extra)
    save_features(target, noisy if planted.kept.all() else noisy.take(planted.kept))
    return _counts(planted, len(np.unique(features.label)), 0)


def _corrupt_dataset(source: Path, target: Path, config: NoiseConfig) -> dict[str, int]:
    dataset = FaceDataset.open(source, on_corrupt="skip")
    planted = plant(dataset.class_ids[dataset.label], config)
    # Records that cannot be read have no label: dropped, and not called clean.
    kept, is_clean = np.zeros((2, dataset.num_rows), np.bool_)
    label, true_label = np.full((2, dataset.num_rows), -1, np.int64)
    kept[dataset.row], is_clean[dataset.row] = planted.kept, planted.is_clean
    label[dataset.row], true_label[dataset.row] = planted.label, planted.true_label
    overlay = LabelOverlay.make(
        label,
        kept,
        source=(label != true_label) | ~kept,
        source_names=("", "corrupt"),
        dataset_fingerprint=dataset.base_fingerprint,
    )
    truth = target.with_name(TRUTH_FILE)
    write_npz(truth, {"is_clean": is_clean, "true_label": true_label}, compressed=True)
    overlay.save(target)
    return _counts(planted, dataset.num_classes, dataset.num_unreadable)


def _counts(planted: PlantedNoise, num_identities: int, num_unreadable: int) -> dict[str, int]:
    return {
        "num_images": len(planted.label),
        "num_identities": num_identities,
        "num_unreadable": num_unreadable,
        **planted.counts(),
        "dropped": int(np.count_nonzero(~planted.kept)),
    }
