"""Pack images into shards that InsightFace reads: resumable, and the same bytes from any worker
count.

Each shard is complete in itself (header layout, keys from 1) and holds consecutive images of the
list ordered by class; labels are common to all shards. A shard is finished when its hidden mark
`.<shard>.json` stands; a killed pack keeps the finished ones.
"""

import contextlib
import csv
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from facetrain.core.artifact import (
    Artifact,
    atomic_path,
    finished,
    made_by,
    write_json,
    write_manifest,
    write_sealed,
)
from facetrain.core.config import config_digest
from facetrain.core.digest import content_digest
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.lock import folder_lock
from facetrain.core.log import logger
from facetrain.core.run_folder import (
    CLASSES_FILE,
    IGNORED_FILE,
    LANDMARKS_FILE,
    SKIPPED_FILE,
    SUSPECT_FILE,
)
from facetrain.core.text import printable
from facetrain.data.files.lists import write_list
from facetrain.data.images.landmarks import Landmarks, image_key
from facetrain.data.packing.pack_image import (
    LANDMARK_HEADER,
    PackOptions,
    Preparation,
    Result,
    Task,
    landmark_row,
)
from facetrain.data.packing.pack_state import (
    Mark,
    claim,
    claim_again,
    finished_mark,
    remove_shards,
    remove_state,
    shard_digests,
)
from facetrain.data.shards.face_shard import FaceShardWriter, write_property
from facetrain.data.sources.image import Listing
from facetrain.data.sources.list_images import list_images

_SCRATCH = ".source.tar"


def pack(
    source: Path,
    out: Path,
    options: PackOptions,
    num_shards: int = 1,
) -> Artifact:
    """Pack a folder per identity, a `.lst` or a tar into `out`.

    A JPEG of size x size passes through byte for byte; any other image is cropped to its centre
    square, resized, and encoded as JPEG. With landmarks every face is aligned instead, and an image
    without them is skipped. With a detector they are found, and written as `landmarks.csv`; an
    image in which none are found is skipped. Every file of the source is packed, or named: in
    `skipped.txt` (does not decode, has no face, is nobody's) or `ignored.txt` (is no image);
    `suspect.txt` names those that are packed although part of their file is lost. An identity
    without any image gets no label. Leaves `train.rec` (or `train-00000.rec`, ...), `.idx`,
    `.lst`, `property`, `classes.json` and `manifest.json`. An interrupted pack continues; one that
    its input makes fail leaves nothing.

    Args:
        source: what to pack; see `list_images`.
        out: a new folder, or one where this same pack was interrupted.
        num_shards: files to spread the images over.

    Raises:
        DataError: an unreadable source, landmarks or detector, nothing to pack, or another data
            set in `out`.
        ConfigError: an option out of range.
        OutputError: the disk is full, say; finished shards stay.
        UserError: another process packs into `out`.
    """
    started = time.time()
    source, out = Path(source), Path(out)
    preparation = Preparation.of(options, num_shards)
    was_there = out.exists()
    try:
        with folder_lock(out):
            return _pack(source, out, preparation, started)
    except (DataError, ConfigError):
        if not was_there:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def _pack(source: Path, out: Path, preparation: Preparation, started: float) -> Artifact:
    config = preparation.config
    try:
        listing = list_images(source, out / _SCRATCH)
        inputs = {"source": listing.digest, **preparation.inputs}
        done = finished(out, "pack", config, inputs)
        if done is not None:
            remove_state(out)
            return done
        identity = content_digest({"config": config_digest(config), "inputs": inputs})
        if made_by(out, "pack", config, inputs) is not None:  # this very pack, damaged since
            claim_again(out, identity)
        tasks = preparation.tasks(listing.images, listing.around)
        if config.num_shards > len(tasks):
            raise ConfigError(f"pack: num_shards={config.num_shards}, but only {len(tasks)} images")
        if preparation.landmarks is not None:
            _check_names(source, preparation.landmarks, listing)
        claim(out, identity)
        try:
            marks, labels, per_second = _write_shards(out, listing, tasks, preparation)
        except (DataError, ConfigError):
            remove_shards(out)
            raise
        metrics = _write_lists(out, listing, marks, labels, preparation)
        if per_second is not None:
            metrics["images_per_second"] = round(per_second, 1)
        artifact = write_manifest(
            out, "pack", config, inputs, metrics, started=started, world_size=1
        )
        remove_state(out)
        return artifact
    finally:
        (out / _SCRATCH).unlink(missing_ok=True)


def _check_names(source: Path, landmarks: Landmarks, listing: Listing) -> None:
    """Landmarks must be of this source's images; those of others are counted."""
    named = {*landmarks.points, *landmarks.misfit}
    known = {
        key
        for image in listing.images
        for key in (image.name.strip(), listing.around + image.name.strip())
    }
    others = [
        name
        for name in named
        if image_key(name.partition("#")[0]) not in known and name not in known
    ]
    if len(others) == len(named):
        raise DataError(
            f"the landmarks must name images as {source} has them ({listing.images[0].name!r}), "
            f"but none of their {len(named)} lines does ({min(others)!r})"
        )
    if others:
        logger.warning(
            "%d of %d lines of landmarks name no image of %s (%r, ...)",
            len(others), len(named), source, min(others),
        )  # fmt: skip


def _write_shards(
    out: Path, listing: Listing, tasks: Sequence[Task], preparation: Preparation
) -> tuple[list[Mark], dict[int, int], float | None]:
    """Every shard's mark, class of the source -> label, and files a second, if any were left."""
    num_shards = preparation.config.num_shards
    bounds = [len(tasks) * i // num_shards for i in range(num_shards + 1)]
    marks: list[Mark] = []
    labels: dict[int, int] = {}
    num_done, begun = 0, time.monotonic()
    for shard in range(num_shards):
        name = "train" if num_shards == 1 else f"train-{shard:05d}"
        mark = finished_mark(out, name)
        if mark is None:
            part = tasks[bounds[shard] : bounds[shard + 1]]
            with contextlib.closing(preparation.prepare(part, name)) as results:
                mark = _write_shard(out / f"{name}.rec", results, labels, listing)
            write_sealed(out / f".{name}.json", mark)
            num_done += len(part)
        for identity in mark.begun:
            labels[identity] = len(labels) if listing.identities else identity
        marks.append(mark)
    if not labels:
        first, reason = next(pair for mark in marks for pair in mark.skipped)
        raise DataError(
            f"none of the {len(tasks)} images can be packed; the first, "
            f"{printable(first)}: {reason}"
        )
    seconds = time.monotonic() - begun
    return marks, labels, num_done / seconds if num_done else None


def _write_shard(
    path: Path,
    results: Iterator[tuple[Task, Result]],
    known: dict[int, int],
    listing: Listing,
) -> Mark:
    """Write a `.rec`, its `.lst`, and what a detector found in it.

    `known` maps a class of the source to the label that an earlier shard gave it.
    """
    skipped: list[tuple[str, str]] = []
    suspect: list[tuple[str, str]] = []
    lines, begun, labels = list[list[str]](), list[int](), dict(known)
    found, num_files = list[list[str]](), 0
    with FaceShardWriter(path) as writer:
        for task, result in results:
            if isinstance(result, str):
                skipped.append((task.image.name, result))
                continue
            num_files += 1
            identity, *more = task.image.label
            if int(identity) not in labels:
                begun.append(int(identity))
                labels[int(identity)] = len(labels) if listing.identities else int(identity)
            label = labels[int(identity)]
            for face in result:
                key = writer.write([label, *more] if more else label, face.encoded)
                numbers = (f"{number:g}" for number in more)
                lines.append([str(key), str(label), *numbers, face.name])
                if face.found is not None:
                    found.append(landmark_row(face))
            if result[0].suspect is not None:
                suspect.append((task.image.name, result[0].suspect))
    write_list(path.with_suffix(".lst"), lines)
    if found:
        _write_csv(path.with_name(f".{path.stem}.csv"), found)
    return Mark(
        digests=shard_digests(path.parent, path.stem),
        num_images=len(lines),
        num_files=num_files,
        skipped=skipped,
        suspect=suspect,
        begun=begun,
    )


def _write_lists(
    out: Path,
    listing: Listing,
    marks: Sequence[Mark],
    labels: dict[int, int],
    preparation: Preparation,
) -> dict[str, Any]:
    """What lies beside the shards; returns what is counted."""
    skipped = [*listing.refused, *(pair for mark in marks for pair in mark.skipped)]
    suspect = [pair for mark in marks for pair in mark.suspect]
    write_list(out / SKIPPED_FILE, skipped)
    write_list(out / IGNORED_FILE, listing.ignored)
    write_list(out / SUSPECT_FILE, suspect)
    if preparation.detector is not None:
        _join_landmarks(out)
    if listing.identities is None:  # a .lst numbers its classes itself
        names = {int(image.label[0]): f"{image.label[0]:.0f}" for image in listing.images}
    else:
        names = dict(enumerate(listing.identities))
    write_json(out / CLASSES_FILE, {str(label): names[one] for one, label in labels.items()})
    write_property(out, max(labels.values()) + 1, preparation.config.size)
    num_images = sum(mark.num_images for mark in marks)
    num_files = sum(mark.num_files for mark in marks)
    empty = [name for identity, name in names.items() if identity not in labels]
    return {
        "num_files": num_files + len(skipped) + len(listing.ignored),
        "num_images": num_images,
        **({"num_further_faces": num_images - num_files} if num_images > num_files else {}),
        "num_identities": len(labels),
        "num_skipped": len(skipped),
        "num_ignored": len(listing.ignored),
        "num_suspect": len(suspect),
        "num_empty_identities": len(empty),
        "empty_identities": empty,
    }


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def _join_landmarks(out: Path) -> None:
    with atomic_path(out / LANDMARKS_FILE) as temporary, open(temporary, "wb") as file:
        file.write(",".join(LANDMARK_HEADER).encode() + b"\n")
        for part in sorted(out.glob(".train*.csv")):
            file.write(part.read_bytes())
