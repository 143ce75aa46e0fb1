"""Framing and image header of every record of a shard, as arrays: no Python loop over records.

RecordIO (dmlc-core recordio.h): uint32 magic; uint32 `cflag << 29 | length`; payload; zero pad to
4 bytes. A payload that holds the magic at an aligned offset is cut there into parts (cflag 1
first, 2 middle, 3 last; 0 is a whole record) and the magic itself is dropped. Image payloads
start with the IRHeader `<IfQQ`: flag, label, id, id2, then `flag` further float32 labels.
"""

import dataclasses
import mmap
import struct

import numpy as np
from numpy.typing import NDArray

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
LENGTH_MASK = (1 << 29) - 1
IR_HEADER = struct.Struct("<IfQQ")
WHOLE, FIRST, MIDDLE, LAST = range(4)
FLOAT32_INTEGERS = 1 << 24
"""Labels and counts are float32, which has every integer below this one, and then not all."""

Buffer = memoryview | mmap.mmap | bytes
_CHUNK = 1 << 20


class BrokenRecordError(Exception):
    """A record whose framing is damaged; the caller knows the shard and the key."""


@dataclasses.dataclass(frozen=True)
class RecordTable:
    """One row a record, in the order asked for."""

    framed: NDArray[np.bool_]  # magic and lengths agree with the record's extent
    flag: NDArray[np.uint32]  # number of labels after the header; 0 is one label inside it
    label: NDArray[np.float32]  # the first label, which is the class
    id: NDArray[np.uint64]
    content_length: NDArray[np.int64]  # bytes after header and labels; -1 without an IRHeader

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Framing and IRHeader are both whole."""
        return self.content_length >= 0


def padded(length: NDArray[np.int64]) -> NDArray[np.int64]:
    """`length` rounded up to the 4 bytes every record is padded to."""
    return (length + 3) & ~3


def read_payload(buffer: Buffer, start: int, stop: int, offset: int = 0) -> bytes:
    """The payload of the record at bytes [start, stop) of `buffer`, its parts joined.

    Args:
        buffer: a shard, or a piece of one.
        offset: of the buffer in the shard, for messages.

    Raises:
        BrokenRecordError: the framing does not fill exactly that extent.
    """
    parts: list[bytes] = []
    after = offset + len(buffer)
    if start == stop:
        raise BrokenRecordError("it is nowhere in the file; the .idx or record 0 tells of it")
    while True:
        if start + 8 > len(buffer):
            raise BrokenRecordError(f"the file ends after {after} bytes, inside the record")
        magic, lrec = struct.unpack_from("<II", buffer, start)
        if magic != MAGIC:
            raise BrokenRecordError(f"its magic is {magic:#010x} instead of {MAGIC:#010x}")
        kind, length = lrec >> 29, lrec & LENGTH_MASK
        end = start + 8 + (length + 3 & ~3)
        if end > len(buffer):
            raise BrokenRecordError(
                f"the file ends after {after} bytes, but the record reaches {offset + end}"
            )
        if kind not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)) or end > stop:
            raise BrokenRecordError(f"its length field {lrec:#010x} is damaged")
        parts.append(bytes(buffer[start + 8 : start + 8 + length]))
        start = end
        if kind in (WHOLE, LAST):
            break
    if end != stop:
        raise BrokenRecordError(
            f"it ends at {offset + end}, but the next record starts at {offset + stop}"
        )
    return parts[0] if len(parts) == 1 else MAGIC_BYTES.join(parts)


def words_of(buffer: Buffer) -> NDArray[np.uint32]:
    """A shard as little-endian uint32, its last incomplete word left out."""
    return np.frombuffer(buffer, "<u4", len(buffer) // 4)


def read_table(buffer: Buffer, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> RecordTable:
    """Framing and header of the records at bytes [starts, stops) of a shard.

    Args:
        buffer: the shard's bytes.
        starts: (N,) byte offset of each record's magic.
        stops: (N,) byte offset where its extent ends.
    """
    pieces = [
        _read_chunk(buffer, starts[i : i + _CHUNK], stops[i : i + _CHUNK])
        for i in range(0, max(len(starts), 1), _CHUNK)
    ]
    return RecordTable(
        *(
            np.concatenate([getattr(piece, field.name) for piece in pieces])
            for field in dataclasses.fields(RecordTable)
        )
    )


def _read_chunk(buffer: Buffer, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> RecordTable:
    words = words_of(buffer)
    inside = (starts >= 0) & (starts % 4 == 0) & (starts + 8 <= 4 * len(words))
    inside &= stops <= len(buffer)
    word = np.where(inside, starts // 4, 0)
    last = max(len(words) - 1, 0)
    source = words if len(words) else np.zeros(1, np.uint32)

    def column(index: int) -> NDArray[np.uint32]:
        """Word `index` of every record; garbage where the record is not `framed`."""
        values: NDArray[np.uint32] = source[np.minimum(word + index, last)]
        return values

    lrec = column(1)
    length = (lrec & LENGTH_MASK).astype(np.int64)
    genuine = inside & (column(0) == MAGIC)
    framed = genuine & (lrec >> 29 == WHOLE) & (starts + 8 + padded(length) == stops)
    flag = column(2)
    label = np.where(flag == 0, column(3), column(8)).view(np.float32)
    identifier = column(4) | column(5).astype(np.uint64) << np.uint64(32)
    content_length = length - IR_HEADER.size - 4 * flag.astype(np.int64)
    content_length[~framed | (content_length < 0)] = -1
    for i in np.flatnonzero(genuine & (lrec >> 29 == FIRST)):  # rare: one payload in a million
        try:
            payload = read_payload(buffer, int(starts[i]), int(stops[i]))
        except BrokenRecordError:
            continue
        framed[i] = True
        if len(payload) >= IR_HEADER.size:
            flag[i], label[i], identifier[i], _ = IR_HEADER.unpack_from(payload)
            content_length[i] = max(len(payload) - IR_HEADER.size - 4 * int(flag[i]), -1)
            if flag[i] and content_length[i] >= 0:
                label[i] = struct.unpack_from("<f", payload, IR_HEADER.size)[0]
    return RecordTable(framed, flag, label, identifier, content_length)
