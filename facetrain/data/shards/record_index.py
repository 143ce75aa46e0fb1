"""Where each record of a shard starts: the `.idx` beside it, or a scan when that one is stale.

An `.idx` is text, `key<TAB>offset` a line, in any order. It is stale when it does not describe
the shard beside it. A damaged shard is not a stale index: then the index is what still knows the
damaged records' keys, so the two are told apart by scanning.

A record that the index or record 0 tells of, and that is nowhere, is not left out in silence: it
stands in the index with an empty extent, and reads as damaged.
"""

import dataclasses
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import SHORTAGES, DataError
from facetrain.core.log import logger
from facetrain.data.shards.record_table import (
    FIRST,
    FLOAT32_INTEGERS,
    IR_HEADER,
    LAST,
    LENGTH_MASK,
    MAGIC,
    MIDDLE,
    WHOLE,
    BrokenRecordError,
    RecordTable,
    padded,
    read_payload,
    read_table,
    words_of,
)

_SCAN_WORDS = 1 << 24


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """The records of a shard in key order; record i is bytes [starts[i], stops[i])."""

    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    rebuilt: bool  # by scanning, the `.idx` being missing or stale


def read_index_file(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Keys and offsets as they stand in an `.idx`; None when it is missing or not such a file.

    A file that lists a key twice is none.

    Raises:
        DataError: it is there, and cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():  # before NumPy 2.3 bad text was only a warning
            warnings.simplefilter("error")
            numbers = np.fromstring(path.read_text("ascii"), dtype=np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise DataError(
            f"{path}: must be a readable index of the shard beside it, but {error.strerror}; make "
            "it readable, or remove it: the shard is then scanned"
        ) from None
    if len(numbers) == 0 or len(numbers) % 2 or len(_distinct(numbers[0::2])) < len(numbers) // 2:
        return None
    return numbers[0::2], numbers[1::2]


def index_records(path: Path, buffer: memoryview) -> tuple[RecordIndex, RecordTable]:
    """The records of the shard at `path`, and their headers; scanned where its `.idx` is stale."""
    listed = read_index_file(path.with_suffix(".idx"))
    if listed is not None and (listed[1] == 0).any():
        index = _in_key_order(*listed, boundaries=listed[1], size=len(buffer))
        table = read_table(buffer, index.starts, index.stops)
        if (
            table.framed.all()
            and np.isin(_counted_images(index, buffer), index.keys).all()
            and not _is_renamed(index.keys, table.id)
        ):
            return index, table
    index = _scanned(path, buffer, listed)
    return index, read_table(buffer, index.starts, index.stops)


def _scanned(
    path: Path,
    buffer: memoryview,
    listed: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
) -> RecordIndex:
    """The index of a shard from a scan of all of it; what its `.idx` listed, where it is not stale.

    Stale means: it does not know a whole record that is there; or, when every byte of the shard
    belongs to a whole record, it lists other offsets inside it; or it hands out the records' own
    ids in another order; or it lists a key twice. Cost: one pass over the file.
    """
    entries = _scan(buffer)
    stops = np.append(entries[1:], len(buffer))
    table = read_table(buffer, entries, stops)
    if listed is not None:
        keys, offsets = listed
        fits = bool(np.isin(entries[table.framed], offsets).all())
        if table.framed.all():
            fits &= np.array_equal(np.sort(offsets[offsets < len(buffer)]), entries)
        if fits:
            boundaries = np.append(offsets, entries)
            index = _in_key_order(keys, offsets, boundaries=boundaries, size=len(buffer))
            kept = read_table(buffer, index.starts, index.stops)
            if not _is_renamed(index.keys[kept.readable], kept.id[kept.readable]):
                return _complete(index, _counted_images(index, buffer), len(buffer))
            listed = None  # the keys that it lists are no records'
        logger.warning(
            "%s: does not describe %s; indexed by scanning", path.with_suffix(".idx"), path
        )
    keys = _keys_from_ids(table.id, table.readable)
    index = _in_key_order(keys, entries, boundaries=entries, size=len(buffer))
    index = dataclasses.replace(index, rebuilt=True)
    known = np.zeros(0, np.int64) if listed is None else _listed_keys(keys, listed[0])
    counted = _counted_images(index, buffer)
    lost = _lost_between(keys, table.readable, stops - entries)
    return _complete(index, np.concatenate([known, counted, lost]), len(buffer))


def _lost_between(
    keys: NDArray[np.int64], readable: NDArray[np.bool_], extent: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Keys missing where damage begins and ends, if so many records fit into the damaged bytes.

    Only in the order of the file: a gap that no damage explains is how the set was numbered.
    """
    lost: list[int] = []
    whole = np.append(-1, np.flatnonzero(readable))
    key_of = np.append(keys, -1)  # as if a record -1 stood before the first
    damaged = np.flatnonzero(np.diff(whole) > 1)
    for before, after in zip(whole[damaged].tolist(), whole[damaged + 1].tolist(), strict=True):
        between = after - before - 1
        gap = int(key_of[after] - key_of[before]) - 1
        room = int(extent[before + 1 : after].sum()) // (8 + IR_HEADER.size)
        if between < gap <= room:
            lost += range(int(key_of[before]) + 1, int(key_of[after]))
    return np.array(lost, np.int64)


def _listed_keys(keys: NDArray[np.int64], listed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys that there must be for an `.idx` with other offsets to lose nothing.

    Where the `.idx` numbers the records otherwise than a scan does, only its length tells.
    """
    if 2 * np.isin(keys, listed).sum() >= min(len(keys), len(listed)):
        return listed
    after = int(keys.max(initial=-1)) + 1
    return np.arange(after, after + len(listed) - len(keys), dtype=np.int64)


def _counted_images(index: RecordIndex, buffer: memoryview) -> NDArray[np.int64]:
    """Keys of the images that record 0 counts in the header layout; none where it cannot.

    Its labels are [num_images + 1, num_images + num_identities + 1]. A first number above the
    second, or beyond float32's integers, is not trusted.
    """
    if len(index.keys) and index.keys[0] == 0:
        try:
            payload = read_payload(buffer, int(index.starts[0]), int(index.stops[0]))
        except BrokenRecordError:
            payload = b""
        if len(payload) == IR_HEADER.size + 8 and IR_HEADER.unpack_from(payload)[0] == 2:
            after, end = struct.unpack_from("<ff", payload, IR_HEADER.size)
            if 1 <= after <= end < FLOAT32_INTEGERS and float(after).is_integer():
                return np.arange(1, int(after), dtype=np.int64)
    return np.zeros(0, np.int64)


def _complete(index: RecordIndex, expected: NDArray[np.int64], size: int) -> RecordIndex:
    """The index with the keys that must be there and are not, as records without an extent."""
    missing = np.setdiff1d(expected, index.keys)
    if len(missing) == 0:
        return index
    keys = np.append(index.keys, missing)
    order = np.argsort(keys, kind="stable")
    nowhere = np.full(len(missing), size, np.int64)
    starts, stops = np.append(index.starts, nowhere), np.append(index.stops, nowhere)
    return dataclasses.replace(index, keys=keys[order], starts=starts[order], stops=stops[order])


def _in_key_order(
    keys: NDArray[np.int64],
    starts: NDArray[np.int64],
    *,
    boundaries: NDArray[np.int64],
    size: int,
) -> RecordIndex:
    """Sort by key; a record stops at the next boundary."""
    order = np.argsort(keys, kind="stable")
    edges = _distinct(np.append(boundaries, [size, max(size, int(boundaries.max(initial=0)))]))
    stops = edges[np.searchsorted(edges[:-1], starts[order], side="right")]
    return RecordIndex(keys[order], starts[order], stops, rebuilt=False)


def _distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted, each once. np.unique hashes since NumPy 2.3: 200 times slower on sorted numbers."""
    values = np.sort(values, kind="stable")
    first = np.append(True, np.diff(values) > 0)[: len(values)]
    return np.compress(first, values)


def _is_renamed(keys: NDArray[np.int64], ids: NDArray[np.uint64]) -> bool:
    """Whether an `.idx` gives records other keys than they were written with.

    The same numbers in another order; or other numbers, with gaps, where the ids have none, as in
    a damaged line. Else other numbers are no fault: shuffled copies keep their old ids.
    """
    own, keys = np.sort(ids.astype(np.int64)), keys[np.argsort(ids, kind="stable")]
    if np.array_equal(own, keys):
        return False
    keys = np.sort(keys)
    gapless = np.arange(len(own)) + own[:1]
    return np.array_equal(own, keys) or (
        np.array_equal(own, gapless) and bool((np.diff(keys) != 1).any())
    )


def _keys_from_ids(ids: NDArray[np.uint64], readable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Keys of scanned records: their ids; their order where the ids name no records.

    A record whose id cannot be read, or was seen before, takes the number after its predecessor's
    if that is free, since records are written in the order of their ids; else one after the
    largest.
    """
    own = ids.astype(np.int64)
    usable = np.zeros(len(ids), np.bool_)
    candidates = np.flatnonzero(readable & (own >= 0))
    usable[candidates[np.unique(own[candidates], return_index=True)[1]]] = True
    if 2 * usable.sum() <= max(readable.sum(), 1):
        return np.arange(len(ids), dtype=np.int64)
    taken = set(own[usable].tolist()) if not usable.all() else set()
    after = int(own[usable].max()) + 1
    for i in np.flatnonzero(~usable).tolist():
        key = int(own[i - 1]) + 1 if i else 0
        if key in taken:
            key = after
        own[i] = key
        taken.add(key)
        after = max(after, key + 1)
    return own


def _scan(buffer: memoryview) -> NDArray[np.int64]:
    """Offsets where a record starts, whole or damaged, ascending.

    The magic never stands at an aligned offset inside a payload, so every one found begins a
    part, and the scan finds its way again after any damage. Where bytes are missing all that
    follows may be out of alignment: those records are found, and cannot be read.
    """
    words, size = words_of(buffer), len(buffer)
    chunks = range(0, len(words), _SCAN_WORDS)
    found = [np.flatnonzero(words[i : i + _SCAN_WORDS] == MAGIC) + i for i in chunks]
    at = np.concatenate(found) if found else np.zeros(0, np.int64)
    lrec = words[np.minimum(at + 1, len(words) - 1)] if len(at) else np.zeros(0, np.uint32)
    end = 4 * at + 8 + padded((lrec & LENGTH_MASK).astype(np.int64))
    following = np.append(4 * at[1:], size)
    kind = lrec >> 29
    before = np.append(WHOLE, kind[:-1])[: len(kind)]
    # A later part that follows no earlier one is what is left of a damaged record.
    later = np.isin(kind, (MIDDLE, LAST)) & np.isin(before, (FIRST, MIDDLE))
    starts = 4 * at[~later]
    lost = [0]
    for i in np.flatnonzero(end < following).tolist():
        gap, stop = int(end[i]), int(following[i])
        if i == len(at) - 1 or _fills(words, gap, stop):
            lost.append(gap)  # a record lost its magic here, or the file has a tail
        lost += _unaligned(buffer, gap, stop)
    if len(at) == 0:
        lost += _unaligned(buffer, 0, size)
    return _distinct(np.append(starts, np.array(lost, np.int64)))


def _unaligned(buffer: memoryview, start: int, stop: int) -> list[int]:
    """Offsets of the magic in bytes [start, stop) that are no multiples of 4."""
    found: list[int] = []
    for shift in range(1, 4):
        for begin in range(start + shift, stop - 3, 4 * _SCAN_WORDS):
            words = np.frombuffer(buffer, "<u4", min((stop - begin) // 4, _SCAN_WORDS), begin)
            found += (begin + 4 * np.flatnonzero(words == MAGIC)).tolist()
    return found


def _fills(words: NDArray[np.uint32], start: int, stop: int) -> bool:
    """Whether a record without its magic fills bytes [start, stop), by its length field."""
    if start // 4 + 1 >= len(words):
        return False
    lrec = int(words[start // 4 + 1])
    return lrec >> 29 in (WHOLE, FIRST) and start + 8 + ((lrec & LENGTH_MASK) + 3 & ~3) == stop
