"""Where each record of a shard starts: the `.idx` beside it, or a scan when that one is stale.

An `.idx` is text, `key<TAB>offset` a line, in any order. It is stale when it does not describe
the shard beside it. A damaged shard is not a stale index: then the index is what still knows the
damaged records' keys, so the two are told apart by scanning (`_settle`).
"""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.log import logger
from facetrain.data.record_table import (
    FIRST,
    LAST,
    LENGTH_MASK,
    MAGIC,
    MIDDLE,
    WHOLE,
    padded,
    read_table,
)

_SAMPLES = 4096
_SCAN_WORDS = 1 << 24


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """The records of a shard in key order; record i is bytes [starts[i], stops[i])."""

    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    rebuilt: bool  # by scanning, the `.idx` being missing or stale
    settled: bool  # the whole shard was looked at, not a sample


def read_index_file(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Keys and offsets as they stand in an `.idx`; None when it is missing or not such a file."""
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():  # before NumPy 2.3 bad text was only a warning
            warnings.simplefilter("error")
            numbers = np.fromstring(path.read_text("ascii"), dtype=np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    if len(numbers) == 0 or len(numbers) % 2:
        return None
    return numbers[0::2], numbers[1::2]


def find_index(path: Path, words: NDArray[np.uint32], buffer: memoryview) -> RecordIndex:
    """The index of the shard at `path`, from its `.idx` when a sample of the records bears it out.

    The sample holds the first and last records and 4096 between; the records must also begin at
    byte 0 and end at the end of the file, so an index of an older, shorter file is noticed.
    """
    found = read_index_file(path.with_suffix(".idx"))
    if found is None or len(_distinct(found[0])) < len(found[0]):
        return settle_index(path, words, buffer)
    index = _in_key_order(*found, boundaries=found[1], size=len(buffer))
    order = np.argsort(index.starts, kind="stable")  # nearly sorted: linear
    pick = order[_distinct(np.linspace(0, len(order) - 1, _SAMPLES).astype(np.int64))]
    if index.starts[order[0]] != 0 or (index.starts[pick] % 4).any():
        return settle_index(path, words, buffer)
    table = read_table(words, buffer, index.starts[pick], index.stops[pick])
    if not table.framed.all():
        return settle_index(path, words, buffer)
    if (table.id.astype(np.int64) != index.keys[pick]).any():
        table = read_table(words, buffer, index.starts, index.stops)
        if _is_permuted(index.keys, table.id):
            return settle_index(path, words, buffer)
    return index


def settle_index(path: Path, words: NDArray[np.uint32], buffer: memoryview) -> RecordIndex:
    """The index of a shard from a scan of all of it; the `.idx` is kept where it is not stale.

    Stale means: it does not know a whole record that is there; or, when every byte of the shard
    belongs to a whole record, it lists other offsets; or it hands out the records' own ids in
    another order; or it lists a key twice. Cost: one pass over the file.
    """
    entries = _scan(words, len(buffer))
    stops = np.append(entries[1:], len(buffer))
    table = read_table(words, buffer, entries, stops)
    found = read_index_file(path.with_suffix(".idx"))
    if found is not None:
        keys, offsets = found
        if table.framed.all():
            fits = np.array_equal(np.sort(offsets), entries)
        else:
            fits = bool(np.isin(entries[table.framed], offsets).all())
        if fits and len(_distinct(keys)) == len(keys):
            boundaries = np.append(offsets, entries)
            index = _in_key_order(keys, offsets, boundaries=boundaries, size=len(buffer))
            kept = read_table(words, buffer, index.starts, index.stops)
            if not _is_permuted(index.keys, kept.id):
                return dataclasses.replace(index, settled=True)
        logger.warning(
            "%s: does not describe %s; indexed by scanning", path.with_suffix(".idx"), path
        )
    keys = _keys_from_ids(table.id, table.readable)
    index = _in_key_order(keys, entries, boundaries=entries, size=len(buffer))
    return dataclasses.replace(index, rebuilt=True, settled=True)


def _in_key_order(
    keys: NDArray[np.int64],
    starts: NDArray[np.int64],
    *,
    boundaries: NDArray[np.int64],
    size: int,
) -> RecordIndex:
    """Sort by key; a record stops at the next boundary."""
    order = np.argsort(keys, kind="stable")
    edges = np.append(_distinct(boundaries), max(size, int(boundaries.max(initial=0))))
    stops = edges[np.searchsorted(edges[:-1], starts[order], side="right")]
    return RecordIndex(keys[order], starts[order], stops, rebuilt=False, settled=False)


def _distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted, each once. np.unique hashes since NumPy 2.3: 200 times slower on sorted numbers."""
    values = np.sort(values, kind="stable")
    first = np.append(True, np.diff(values) > 0)[: len(values)]
    return np.compress(first, values)


def _is_permuted(keys: NDArray[np.int64], ids: NDArray[np.uint64]) -> bool:
    """Same numbers, other order. Other numbers are no fault: shuffled copies keep their old ids."""
    own = ids.astype(np.int64)
    return bool((own != keys).any()) and np.array_equal(np.sort(own), np.sort(keys))


def _keys_from_ids(ids: NDArray[np.uint64], readable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Keys of scanned records: their ids; their order where the ids name no records.

    Records whose id cannot be read, or was seen before, are numbered after the largest.
    """
    own = ids.astype(np.int64)
    usable = np.zeros(len(ids), np.bool_)
    candidates = np.flatnonzero(readable & (own >= 0))
    usable[candidates[np.unique(own[candidates], return_index=True)[1]]] = True
    if 2 * usable.sum() <= len(ids):
        return np.arange(len(ids), dtype=np.int64)
    after = own[usable].max() + 1
    return np.where(usable, own, after + np.cumsum(~usable) - 1)


def _scan(words: NDArray[np.uint32], size: int) -> NDArray[np.int64]:
    """Offsets where a record starts, whole or damaged, ascending.

    The magic never stands at an aligned offset inside a payload, so every one found begins a
    part, and the scan finds its way again after any damage.
    """
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
    for i in np.flatnonzero(end < following):
        gap = int(end[i])
        if i == len(at) - 1 or _fills(words, gap, int(following[i])):
            lost.append(gap)  # a record lost its magic here, or the file has a tail
    return _distinct(np.append(starts, np.array(lost, np.int64)))


def _fills(words: NDArray[np.uint32], start: int, stop: int) -> bool:
    """Whether a record without its magic fills bytes [start, stop), by its length field."""
    if start // 4 + 1 >= len(words):
        return False
    lrec = int(words[start // 4 + 1])
    return lrec >> 29 in (WHOLE, FIRST) and start + 8 + ((lrec & LENGTH_MASK) + 3 & ~3) == stop
