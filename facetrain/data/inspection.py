"""What is in a data set: counts, layout, class histogram, every unreadable or suspect record."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.progress import progress
from facetrain.core.run_folder import SUSPECT_FILE
from facetrain.data.images.suspect import decode_checked
from facetrain.data.images.workers import ordered_map
from facetrain.data.shards.record_table import BrokenRecordError, RecordTable, read_payload
from facetrain.data.shards.recordio import ShardReader, shard_paths, unpack_record
from facetrain.data.shards.shard_set import (
    ShardImages,
    check_one_set,
    merged_labels,
    open_shard,
    valid_labels,
)

_UNREADABLE, _GOOD, _SUSPECT = range(3)
_CHUNK = 256  # images a task
_IMAGES_PER_WORKER = 4096  # fewer do not repay a process's start


_Task = tuple[Path, list[int], list[int]]
"""A shard; the first bytes and the lengths of some of its records."""


def inspect(path: Path, workers: int | None = None, show_progress: bool = True) -> dict[str, Any]:
    """Read and decode every record of a data set.

    Args:
        path: a `.rec` file or a folder of shards.
        workers: processes; as many as processors when None.

    Returns:
        `num_images` and `num_identities` (readable ones), `layout` ("header", "flat", "mixed"),
        `num_shards`, `unreadable` (keys of records that are damaged or do not decode),
        `suspect` (keys of images that decode although part of their file is lost, or was when they
        were packed),
        `invalid_label` (keys of images whose class is not an integer from 0 up),
        `merged_label` (keys of images whose class is from 2^24 up, where several people may have
        become one),
        `class_histogram` (images an identity: min, median, mean, max, and bins of identities),
        `index_rebuilt` (shards whose .idx is missing or stale). Keys are integers, or
        "shard:key" when there are several shards.

    Raises:
        DataError: no shards at `path`, a file that is none, or those of several data sets.
    """
    found = [_headers(shard) for shard in shard_paths(Path(path))]
    check_one_set(Path(path), [images for images, _ in found])
    unreadable: list[int | str] = []
    suspect: list[int | str] = []
    invalid_label: list[int | str] = []
    merged_label: list[int | str] = []
    labels = []
    for one, table in found:
        shard, positions = one.shard, one.positions
        state = _decode_all(shard, positions, workers, show_progress)
        good = table.readable
        good[positions] &= state != _UNREADABLE
        flagged = positions[state == _SUSPECT]
        flagged = np.union1d(flagged, positions[_suspect_when_packed(one)])
        images = positions[good[positions]]
        label = table.label[images]
        valid = valid_labels(label)
        labels.append(label[valid].astype(np.int64))
        for listed, bad in (
            (unreadable, np.flatnonzero(~good)),
            (suspect, flagged[good[flagged]]),
            (invalid_label, images[~valid]),
            (merged_label, images[merged_labels(label)]),
        ):
            keys = [int(key) for key in shard.keys[bad]]
            listed += keys if len(found) == 1 else [f"{shard.path.name}:{key}" for key in keys]
    layouts = {one.layout for one, _ in found}
    classes, counts = np.unique(np.concatenate(labels), return_counts=True)
    return {
        "num_images": int(counts.sum()) + len(invalid_label),
        "num_identities": len(classes),
        "layout": layouts.pop() if len(layouts) == 1 else "mixed",
        "num_shards": len(found),
        "unreadable": unreadable,
        "suspect": suspect,
        "invalid_label": invalid_label,
        "merged_label": merged_label,
        "class_histogram": _histogram(counts),
        "index_rebuilt": [one.shard.path.name for one, _ in found if one.shard.index_rebuilt],
    }


def _headers(path: Path) -> tuple[ShardImages, RecordTable]:
    images, table = open_shard(path)
    if images.shard.index_rebuilt and not table.framed.any():
        raise DataError(
            f"{path}: must be a .rec of RecordIO, but in its {path.stat().st_size} bytes no record "
            "begins; give another file, or get it again"
        )
    return images, table


def _suspect_when_packed(one: ShardImages) -> NDArray[np.int64]:
    """Which images `pack` listed as suspect: encoded anew, they no longer show it."""
    listed = one.shard.path.with_name(SUSPECT_FILE)
    text = listed.read_text("utf-8", "surrogateescape") if listed.is_file() else ""
    names = {line.partition("\t")[0] for line in text.splitlines()}
    if not names:
        return np.zeros(0, np.int64)
    keys = one.shard.keys[one.positions].tolist()
    found = [number for number, key in enumerate(keys) if one.sources.name(key, number) in names]
    return np.array(found, np.int64)


def _decode_all(
    shard: ShardReader, positions: NDArray[np.int64], workers: int | None, show_progress: bool
) -> NDArray[np.uint8]:
    """What decoding says of each image record: unreadable, good or suspect."""
    most = max(1, len(positions) // _IMAGES_PER_WORKER)

    def tasks() -> Iterator[_Task]:
        for i in range(0, len(positions), _CHUNK):
            starts, stops = shard.extents(positions[i : i + _CHUNK])
            yield shard.path, starts.tolist(), (stops - starts).tolist()

    results = ordered_map(_check_chunk, tasks(), min(workers or os.cpu_count() or 1, most))
    flat = (state for chunk in results for state in chunk)
    name, total = shard.path.name, len(positions)
    bar = progress(flat, name, total=total, unit="img", enabled=show_progress)
    return np.fromiter(bar, np.uint8, total)


def _check_chunk(task: _Task) -> list[int]:
    path, starts, lengths = task
    states = []
    with open(path, "rb") as file:
        for start, length in zip(starts, lengths, strict=True):
            file.seek(start)
            states.append(_state(file.read(length), length))
    return states


def _state(record: bytes, extent: int) -> int:
    try:
        content = unpack_record(read_payload(record, 0, extent))[1]
        reason = decode_checked(content, "image")[1]
    except (BrokenRecordError, DataError):
        return _UNREADABLE
    return _GOOD if reason is None else _SUSPECT


def _histogram(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Spread of images an identity; bins 1, 2, 3-4, 5-8, ... up to the largest."""
    if len(counts) == 0:
        return {"min": 0, "median": 0.0, "mean": 0.0, "max": 0, "bins": {}}
    bins = {}
    low, high = 1, 1
    while low <= counts.max():
        name = str(high) if low == high else f"{low}-{high}"
        bins[name] = int(((counts >= low) & (counts <= high)).sum())
        low, high = high + 1, 2 * high
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": round(float(counts.mean()), 3),
        "max": int(counts.max()),
        "bins": bins,
    }
