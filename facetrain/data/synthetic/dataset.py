"""Synthetic data sets on disk: training shards with a label table, and verification pairs."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import write_json
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.progress import progress
from facetrain.core.rng import numpy_generator
from facetrain.data.evaluation.verification_bin import write_bin
from facetrain.data.files.npz_file import read_npz, write_npz
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.images.workers import ordered_map
from facetrain.data.shards.face_shard import FaceShardWriter, write_property
from facetrain.data.synthetic.nuisance import SyntheticConfig, draw_nuisance
from facetrain.data.synthetic.renderer import Labels, render

JPEG_QUALITY = 92
_NUM_FOLDS = 10
_BATCH = 64  # images a worker renders between two answers
_LABEL_TYPE = np.dtype(
    [(name, "<i8") for name in ("identity", "sample", "group", "pose", "occlusion", "blur")]
    + [(name, "<f8") for name in ("yaw", "pitch", "roll")]
    + [("landmarks", "<f4", (5, 2))]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One image to render; a level that is not None replaces the drawn one."""

    identity: int
    sample: int
    pose: int | None = None
    occlusion: int | None = None
    blur: int | None = None


def num_images(config: SyntheticConfig, identity: int) -> int:
    """Images of an identity: log-uniform from min_images to max_images, a long tail."""
    low, high = config.min_images, config.max_images
    draw = float(numpy_generator(config.seed, "synthetic images", identity).random())
    return min(high, int(low * ((high + 1) / low) ** draw))


def all_samples(config: SyntheticConfig) -> Iterator[Sample]:
    """The images `config` describes, identity by identity."""
    first = config.first_identity
    for identity in range(first, first + config.num_identities):
        for sample in range(num_images(config, identity)):
            yield Sample(identity, sample)


def _render_batch(job: tuple[SyntheticConfig, Sequence[Sample]]) -> list[tuple[bytes, Labels]]:
    config, samples = job
    done = []
    for s in samples:
        state = draw_nuisance(
            config, s.identity, s.sample, pose=s.pose, occlusion=s.occlusion, blur=s.blur
        )
        image, labels = render(config, s.identity, s.sample, state)
        done.append((encode_jpeg(image, JPEG_QUALITY), labels))
    return done


def _rendered(
    config: SyntheticConfig, samples: Sequence[Sample], workers: int, title: str, quiet: bool
) -> Iterator[tuple[bytes, Labels]]:
    """Encoded images and labels in the order of `samples`, over processes."""
    jobs = ((config, samples[at : at + _BATCH]) for at in range(0, len(samples), _BATCH))
    batches = ordered_map(_render_batch, jobs, workers)
    images = (item for batch in batches for item in batch)
    return progress(images, title, total=len(samples), unit="img", enabled=not quiet)


def _label_row(labels: Labels) -> tuple[Any, ...]:
    return tuple(getattr(labels, name) for name in _LABEL_TYPE.names or ())


def _write_labels(path: Path, table: NDArray[np.void]) -> None:
    """The label table: one array a column, rows in record order."""
    write_npz(path, {name: table[name] for name in _LABEL_TYPE.names or ()})


def read_labels(path: Path) -> dict[str, NDArray[np.generic]]:
    """The columns of `labels.npz`: the fields of `Labels`, (N, ...) in record order.

    Raises:
        DataError: another or a damaged file.
    """
    found: dict[str, NDArray[np.generic]] = dict(read_npz(path, "the labels of rendered faces"))
    missing = set(_LABEL_TYPE.names or ()) - set(found)
    if missing:
        raise DataError(f"{path}: must be the labels of rendered faces, but lacks {min(missing)}")
    return found


def write_synthetic(
    out_dir: Path,
    config: SyntheticConfig,
    samples: Iterable[Sample] | None = None,
    *,
    workers: int = 1,
    quiet: bool = False,
) -> Path:
    """Render a training set into `out_dir`; return its shard.

    Writes `train.rec` and `train.idx` (InsightFace's header layout, label = identity),
    `property`, `labels.npz` (see `read_labels`) and, last, `synthetic.json`: how it was made.

    Args:
        out_dir: made when missing.
        samples: which images, in what order, at which planted levels; all of one identity
            together. Default: `all_samples(config)`.
        workers: processes; the result does not depend on them.
    """
    plan = list(all_samples(config) if samples is None else samples)
    out_dir.mkdir(parents=True, exist_ok=True)
    shard = out_dir / "train.rec"
    table = np.zeros(len(plan), _LABEL_TYPE)
    with FaceShardWriter(shard) as writer:
        rendered = _rendered(config, plan, workers, "synthetic faces", quiet)
        for row, (encoded, labels) in enumerate(rendered):
            writer.write(labels.identity, encoded)
            table[row] = _label_row(labels)
    num_classes = len({sample.identity for sample in plan})
    write_property(out_dir, num_classes, config.size)
    _write_labels(out_dir / "labels.npz", table)
    _write_how(out_dir / "synthetic.json", config, num_images=len(plan), num_classes=num_classes)
    return shard


def pair_samples(config: SyntheticConfig, num_pairs: int) -> tuple[list[Sample], NDArray[np.bool_]]:
    """Images 2i and 2i+1 of pair i, and whether pair i is the same person, (num_pairs,).

    Each fold has its own identities, first its same pairs, then its different ones, as in the
    LFW protocol. No image occurs twice.

    Raises:
        ConfigError: pairs that do not split evenly, or fewer than two identities a fold.
    """
    half, rest = divmod(num_pairs, 2 * _NUM_FOLDS)
    if rest or not half:
        raise ConfigError(f"num_pairs must be a multiple of {2 * _NUM_FOLDS}, got {num_pairs}")
    identities = config.first_identity + np.arange(config.num_identities)
    if len(identities) < 2 * _NUM_FOLDS:
        raise ConfigError(
            f"num_identities={len(identities)} must be at least {2 * _NUM_FOLDS}, two a fold"
        )
    rng = numpy_generator(config.seed, "synthetic pairs")
    used: dict[int, int] = {}
    samples = []

    def add(identity: int) -> None:
        samples.append(Sample(identity, used.get(identity, 0)))
        used[identity] = used.get(identity, 0) + 1

    for fold in np.array_split(identities, _NUM_FOLDS):
        for _ in range(half):
            identity = int(rng.choice(fold))
            add(identity)
            add(identity)
        for _ in range(half):
            for identity in rng.choice(fold, 2, replace=False).tolist():
                add(identity)
    return samples, np.tile(np.repeat([True, False], half), _NUM_FOLDS)


def write_pairs(
    path: Path,
    config: SyntheticConfig,
    num_pairs: int = 1200,
    *,
    workers: int = 1,
    quiet: bool = False,
) -> Path:
    """Render verification pairs into an InsightFace `.bin` at `path`; return it.

    The identities are config.first_identity onwards: give it a range the training set does not
    use. Beside it stand `<name>.labels.npz` (rows 2i and 2i+1 belong to pair i) and
    `<name>.json`.

    Raises:
        ConfigError: see `pair_samples`.
    """
    samples, same = pair_samples(config, num_pairs)
    done = list(_rendered(config, samples, workers, "synthetic pairs", quiet))
    write_bin(path, [encoded for encoded, _ in done], same)
    table = np.array([_label_row(labels) for _, labels in done], _LABEL_TYPE)
    _write_labels(path.with_suffix(".labels.npz"), table)
    _write_how(path.with_suffix(".json"), config, num_pairs=num_pairs, num_folds=_NUM_FOLDS)
    return path


def _write_how(path: Path, config: SyntheticConfig, **counts: int) -> None:
    write_json(path, {"config": config.model_dump(mode="json"), "jpeg": JPEG_QUALITY, **counts})
