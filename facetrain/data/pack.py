"""Pack images into shards that InsightFace reads: resumable, and the same bytes from any worker
count.

Each shard is complete in itself (header layout, keys from 1) and holds consecutive images of the
list ordered by class; labels are common to all shards. A shard is finished when its hidden mark
`.<shard>.json` stands; a killed pack keeps the finished ones.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facetrain.core.artifact import (
    MANIFEST,
    Artifact,
    atomic_path,
    fingerprint,
    finished,
    read_json,
    write_json,
    write_manifest,
)
from facetrain.core.config import Config, config_digest, parse_config
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.lock import folder_lock
from facetrain.core.progress import progress
from facetrain.data.align import align
from facetrain.data.face_shard import FaceShardWriter, write_property
from facetrain.data.images import encode_jpeg, fit_square
from facetrain.data.landmarks import Landmarks, read_landmarks
from facetrain.data.sources import Listing, SourceImage, list_images
from facetrain.data.suspect import SUSPECT_FILE, decode_judged
from facetrain.data.workers import ordered_map

_PLAN = ".pack.json"
_CHUNK = 32  # images a task
_IMAGES_PER_WORKER = 512  # fewer do not repay a process's start


class PackConfig(Config):
    """What decides the bytes that `pack` writes, besides its inputs."""

    size: int = Field(112, ge=8, le=4096)
    num_shards: int = Field(1, ge=1, le=99999)
    quality: int = Field(95, ge=1, le=100)


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    image: SourceImage
    points: NDArray[np.float64] | None
    no_points: str | None  # why, where landmarks were given for this source


_Result = tuple[bytes, str | None] | str
"""The encoded image and why it is suspect, if it is; or why there is none."""


def pack(
    source: Path,
    out: Path,
    size: int = 112,
    num_shards: int = 1,
    landmarks: Path | None = None,
    workers: int | None = None,
    quality: int = 95,
    show_progress: bool = True,
) -> Artifact:
    """Pack a folder per identity, a `.lst` or a tar into `out`.

    A JPEG of size x size passes through byte for byte; any other image is cropped to its centre
    square, resized, and encoded as JPEG. With landmarks every image is aligned instead, and one
    without them is skipped. Images that do not decode are skipped; `skipped.txt` names them all,
    and `suspect.txt` those that decode although part of their file is lost, which are packed.
    An identity without any image gets no label. Leaves `train.rec` (or `train-00000.rec`, ...),
    `.idx`, `.lst`, `property`, `classes.json` and `manifest.json`. An interrupted pack continues.

    Args:
        source: what to pack; see `list_images`.
        out: a new folder, or one where this same pack was interrupted.
        size: side of the images in pixels.
        num_shards: files to spread the images over.
        landmarks: CSV of five points an image; see `read_landmarks`.
        workers: processes; as many as processors when None. They do not change the result.
        quality: JPEG quality, 1 to 100, of images that must be encoded.
        show_progress: draw a progress bar on stderr.

    Raises:
        DataError: an unreadable source or landmarks file, nothing to pack, or another data set
            in `out`.
        ConfigError: an option out of range.
        OutputError: the disk is full, say; finished shards stay.
        UserError: another process packs into `out`.
    """
    with folder_lock(Path(out)):
        return _pack(
            Path(source), Path(out), size, num_shards, landmarks, workers, quality, show_progress
        )


def _pack(
    source: Path,
    out: Path,
    size: int,
    num_shards: int,
    landmarks: Path | None,
    workers: int | None,
    quality: int,
    show_progress: bool,
) -> Artifact:
    """`pack`, by the only one who writes to `out`."""
    started = time.time()
    options = {"size": size, "num_shards": num_shards, "quality": quality}
    config = parse_config(PackConfig, options, "pack")
    scratch = out / ".source.tar"
    listing = list_images(source, scratch)
    inputs = {"source": listing.digest}
    marked: Landmarks | None = None
    if landmarks is not None:
        marked = read_landmarks(Path(landmarks))
        inputs["landmarks"] = fingerprint(Path(landmarks))
    done = finished(out, "pack", config, inputs)
    if done is not None:
        _remove_leftovers(out)
        return done
    if num_shards > len(listing.images):
        raise ConfigError(f"pack: num_shards={num_shards}, but only {len(listing.images)} images")
    tasks = [_task(image, marked) for image in listing.images]
    workers = workers or os.cpu_count() or 1
    workers = max(1, min(workers, len(tasks) // _IMAGES_PER_WORKER))
    plan = _plan(out, listing, tasks, config, inputs, workers, show_progress)

    bounds = [len(tasks) * i // num_shards for i in range(num_shards + 1)]
    marks = []
    for shard in range(num_shards):
        name = "train" if num_shards == 1 else f"train-{shard:05d}"
        mark = out / f".{name}.json"
        if not (mark.is_file() and (out / f"{name}.rec").is_file()):
            part = tasks[bounds[shard] : bounds[shard + 1]]
            results = ordered_map(
                functools.partial(_prepare_chunk, config=config), _chunks(part), workers
            )
            flat = (result for chunk in results for result in chunk)
            bar = progress(flat, name, total=len(part), unit="img", enabled=show_progress)
            write_json(mark, _write_shard(out / f"{name}.rec", part, bar, plan["labels"]))
        marks.append(read_json(mark))

    skipped = [*listing.refused, *(tuple(pair) for mark in marks for pair in mark["skipped"])]
    with atomic_path(out / "skipped.txt") as temporary:
        _write_lines(temporary, (f"{name}\t{reason}" for name, reason in skipped))
    suspect = [tuple(pair) for mark in marks for pair in mark["suspect"]]
    with atomic_path(out / SUSPECT_FILE) as temporary:
        _write_lines(temporary, (f"{name}\t{reason}" for name, reason in suspect))
    write_json(out / "classes.json", plan["classes"])
    write_property(out, plan["num_classes"], size)
    metrics = {
        "num_images": sum(mark["num_images"] for mark in marks),
        "num_identities": len(plan["classes"]),
        "num_skipped": len(skipped),
        "num_suspect": len(suspect),
        "num_empty_identities": len(plan["empty"]),
        "empty_identities": plan["empty"],
    }
    artifact = write_manifest(out, "pack", config, inputs, metrics, started=started, world_size=1)
    _remove_leftovers(out)
    return artifact


def _task(image: SourceImage, marked: Landmarks | None) -> _Task:
    if marked is None:
        return _Task(image, None, None)
    points = marked.points.get(image.name)
    missing = marked.misfit.get(image.name, "has no landmarks")
    return _Task(image, points, missing if points is None else None)


def _plan(
    out: Path,
    listing: Listing,
    tasks: list[_Task],
    config: PackConfig,
    inputs: dict[str, str],
    workers: int,
    show_progress: bool,
) -> dict[str, Any]:
    """Final label of each class, decided before the first image is written.

    A class whose images all fail must not leave a gap, so one image of every class is tried. The
    plan is kept in `out` for the next start.
    """
    identity = {"config": config_digest(config), "inputs": inputs}
    path = out / _PLAN
    if path.is_file():
        plan: dict[str, Any] = read_json(path)
        if plan["identity"] == identity and not (out / MANIFEST).exists():
            for leftover in out.glob(".*.tmp"):
                leftover.unlink()
            return plan
    if path.is_file() or any(out.glob("*.rec")) or (out / MANIFEST).exists():
        raise DataError(
            f"{out}: must be new, or hold this same pack interrupted, but it holds another data "
            "set; give another folder or remove this one"
        )
    groups: dict[int, list[_Task]] = {}
    for task in tasks:
        groups.setdefault(int(task.image.label[0]), []).append(task)
    usable = ordered_map(functools.partial(_any_usable, config=config), groups.values(), workers)
    bar = progress(usable, "identities", total=len(groups), unit="id", enabled=show_progress)
    filled = [label for label, good in zip(groups, bar, strict=True) if good]
    if not filled:
        try:
            _prepare(tasks[0], config)
        except DataError as error:
            raise DataError(
                f"none of the {len(tasks)} images can be packed; the first, "
                f"{tasks[0].image.name}: {error}"
            ) from None
    if listing.identities is None:  # a .lst numbers its classes itself
        labels = {str(label): label for label in filled}
        names = {label: str(label) for label in groups}
    else:
        labels = {str(label): new for new, label in enumerate(filled)}
        names = dict(enumerate(listing.identities))
    plan = {
        "identity": identity,
        "labels": labels,
        "classes": {str(labels[str(label)]): names[label] for label in filled},
        "num_classes": max(labels.values()) + 1,
        "empty": [name for label, name in names.items() if str(label) not in labels],
    }
    write_json(path, plan)
    return plan


def _write_shard(
    path: Path, tasks: list[_Task], results: Iterator[_Result], labels: dict[str, int]
) -> dict[str, Any]:
    """Write one shard and its `.lst`; return what its mark says."""
    skipped, suspect, lines = [], [], []
    with FaceShardWriter(path) as writer:
        for task, result in zip(tasks, results, strict=True):
            image = task.image
            if isinstance(result, str):
                skipped.append((image.name, result))
                continue
            encoded, reason = result
            if reason is not None:
                suspect.append((image.name, reason))
            label = labels[str(int(image.label[0]))]
            more = image.label[1:]
            key = writer.write([label, *more] if more else label, encoded)
            numbers = "\t".join(f"{number:g}" for number in more)
            lines.append("\t".join(filter(None, (str(key), str(label), numbers, image.name))))
    with atomic_path(path.with_suffix(".lst")) as temporary:
        _write_lines(temporary, iter(lines))
    return {"num_images": len(lines), "skipped": skipped, "suspect": suspect}


def _prepare(task: _Task, config: PackConfig) -> tuple[bytes, str | None]:
    """The image file that goes into the shard, and why it is suspect, or None.

    Raises:
        DataError: why there is none.
    """
    if task.no_points is not None:
        raise DataError(task.no_points)
    encoded = task.image.read()
    image, reason = decode_judged(encoded, "image")
    if task.points is not None:
        aligned = align(image, task.points, config.size)
        return encode_jpeg(aligned, config.quality), reason
    if image.shape[:2] == (config.size, config.size) and encoded[:2] == b"\xff\xd8":
        return encoded, reason
    return encode_jpeg(fit_square(image, config.size), config.quality), reason


def _prepare_chunk(tasks: list[_Task], config: PackConfig) -> list[_Result]:
    results: list[_Result] = []
    for task in tasks:
        try:
            results.append(_prepare(task, config))
        except DataError as error:
            results.append(str(error))
    return results


def _any_usable(tasks: list[_Task], config: PackConfig) -> bool:
    for task in tasks:
        try:
            _prepare(task, config)
        except DataError:
            continue
        return True
    return False


def _chunks(tasks: list[_Task]) -> Iterator[list[_Task]]:
    for i in range(0, len(tasks), _CHUNK):
        yield tasks[i : i + _CHUNK]


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _remove_leftovers(out: Path) -> None:
    """Marks, plan and scratch files of a finished pack."""
    for pattern in (".*.tmp", ".train*.json", _PLAN, ".source.tar"):
        for path in out.glob(pattern):
            path.unlink()
