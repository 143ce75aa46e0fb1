"""RecordIO shards, read at random and written atomically, without MXNet.

A shard is mapped while its index and headers are read, and never longer: a file that is cut short
under a map kills the process by a signal. Records are read from a file that is opened when it is
first needed. A process keeps few of them open, so a data set may have any number of shards.
"""

import contextlib
import dataclasses
import functools
import mmap
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import SHORTAGES, DataError
from facetrain.core.plain_file import refuse_hole
from facetrain.data.shards.record_index import RecordIndex, index_records
from facetrain.data.shards.record_table import (
    FIRST,
    IR_HEADER,
    LAST,
    LENGTH_MASK,
    MAGIC_BYTES,
    MIDDLE,
    WHOLE,
    BrokenRecordError,
    RecordTable,
    read_payload,
    read_table,
)


@dataclasses.dataclass(frozen=True)
class RecordHeader:
    """MXNet's IRHeader. `flag` 0: one label, stored inside; n > 0: n labels after the header."""

    flag: int
    label: NDArray[np.float32]  # (n,), or (1,) when flag is 0; label[0] is the class
    id: int
    id2: int


def pack_record(header: RecordHeader, content: bytes) -> bytes:
    """The payload of an image record, as `mxnet.recordio.pack` writes it."""
    if header.flag == 0:
        return IR_HEADER.pack(0, float(header.label[0]), header.id, header.id2) + content
    assert header.flag == len(header.label)
    labels = np.asarray(header.label, "<f4").tobytes()
    return IR_HEADER.pack(header.flag, 0.0, header.id, header.id2) + labels + content


def unpack_record(payload: bytes) -> tuple[RecordHeader, bytes]:
    """Header and content of an image record's payload.

    Raises:
        DataError: the payload is shorter than its header and labels.
    """
    need = IR_HEADER.size
    if len(payload) >= need:
        flag, label, identifier, id2 = IR_HEADER.unpack_from(payload)
        need += 4 * flag
    if len(payload) < need:
        raise DataError(f"an image record needs {need} bytes of header; it has {len(payload)}")
    labels = np.array([label], np.float32)
    if flag:
        labels = np.frombuffer(payload, "<f4", flag, IR_HEADER.size)
    return RecordHeader(flag, labels, identifier, id2), payload[need:]


class ShardWriter:
    """Writes a `.rec` and its `.idx`; both appear when the block ends well, else neither.

    with ShardWriter(path) as writer:
        writer.write(key, payload)
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._offset = 0
        self._offset_of_key: dict[int, int] = {}

    def __enter__(self) -> "ShardWriter":
        with contextlib.ExitStack() as stack:
            self._index = stack.enter_context(atomic_path(self.path.with_suffix(".idx")))
            records = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(open(records, "wb", buffering=1 << 20))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._stack.__exit__(*error)
            return
        with self._stack, open(self._index, "w", encoding="ascii", newline="\n") as file:
            file.writelines(f"{key}\t{at}\n" for key, at in self._offset_of_key.items())

    def write(self, key: int, payload: bytes) -> None:
        """Append one record; cut where the payload holds the magic at an aligned offset.

        Raises:
            DataError: the payload is 512 MiB or more, or the key was written before.
        """
        if len(payload) > LENGTH_MASK:
            raise DataError(f"record {key}: must be under 512 MiB, got {len(payload)} bytes")
        if key in self._offset_of_key:
            raise DataError(f"record {key}: must be written once, but {self.path.name} has it")
        self._offset_of_key[key] = self._offset
        cuts = []
        cut = payload.find(MAGIC_BYTES)
        while cut >= 0:
            if cut % 4 == 0:
                cuts.append(cut)
            cut = payload.find(MAGIC_BYTES, cut + (4 if cut % 4 == 0 else 1))
        begins = [0, *(cut + 4 for cut in cuts)]
        ends = [*cuts, len(payload)]
        for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            kind = WHOLE if not cuts else FIRST if i == 0 else LAST if i == len(cuts) else MIDDLE
            length = end - begin
            self._file.write(MAGIC_BYTES + struct.pack("<I", kind << 29 | length))
            self._file.write(payload[begin:end] if cuts else payload)
            self._file.write(bytes(-length % 4))
            self._offset += 8 + length + -length % 4


class ShardChangedError(DataError):
    """A shard is not the file any more that was opened: no single record is at fault."""


class ShardReader:
    """Random access to the records of one `.rec` file.

    A missing or stale `.idx` is replaced, in memory, by a scan. Forked and pickled copies parse
    nothing again.
    """

    def __init__(self, path: Path) -> None:
        """Find the records of `path`.

        Raises:
            DataError: no such file, an empty one, or one that cannot be read.
        """
        self.path = Path(path)
        buffer = self._map()
        self._size = len(buffer)
        found = os.stat(self.path)
        self._identity = found.st_dev, found.st_ino
        self._index: RecordIndex
        self._table: RecordTable | None
        self._index, self._table = index_records(self.path, buffer)

    def _map(self) -> memoryview:
        """The shard's bytes, mapped for as long as the caller holds them."""
        if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
            raise DataError(f"{self.path}: must be a .rec file, but is none")
        try:
            with open(self.path, "rb") as file:
                refuse_hole(file.fileno(), self.path, _MOST_EXTENT)  # no record is so long
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise DataError(f"{self.path}: must be a .rec file, but there is none") from None
        except ValueError:
            raise DataError(f"{self.path}: must hold records, but the file is empty") from None
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size != self._size:
            raise self._changed(size)

    def _changed(self, size: int) -> ShardChangedError:
        return ShardChangedError(
            f"{self.path}: must not change while it is read; it had {self._size} bytes and has "
            f"{size}; restore it and run the same command again"
        )

    def __len__(self) -> int:
        return len(self._index.keys)

    @property
    def keys(self) -> NDArray[np.int64]:
        """(N,) record keys, ascending: the order of `table` and of `read_at`."""
        return self._index.keys

    @property
    def index_rebuilt(self) -> bool:
        """Whether the `.idx` was missing or stale, so that the shard was scanned."""
        return self._index.rebuilt

    def table(self) -> RecordTable:
        """Framing and header of all records, in key order; kept until it is asked for once.

        Raises:
            DataError: the file is not what it was when the reader was made.
        """
        table, self._table = self._table, None
        if table is None:
            buffer = self._map()
            if len(buffer) != self._size:
                raise self._changed(len(buffer))
            table = read_table(buffer, self._index.starts, self._index.stops)
        return table

    def extents(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes [start, stop) of the records at these positions of `keys`."""
        return self._index.starts[positions], self._index.stops[positions]

    def read(self, key: int) -> bytes:
        """The payload of the record with this key.

        Raises:
            DataError: no such key, or a damaged record.
        """
        position = int(np.searchsorted(self.keys, key))
        if position == len(self) or self.keys[position] != key:
            raise DataError(f"{self.path}: must hold a record {key}, but its index has none")
        return self.read_at(position)

    def read_at(self, position: int) -> bytes:
        """The payload of the record at this position of `keys`.

        Raises:
            DataError: naming shard, key and offset of a damaged record.
            ShardChangedError: the file was cut short, or replaced by another, since.
        """
        start, stop = int(self._index.starts[position]), int(self._index.stops[position])
        length = min(stop - start, _MOST_EXTENT)
        try:
            file = _open_shard(self.path, self._identity)
            data = os.pread(file.fileno(), length, start)
            if len(data) < min(length, self._size - start):
                raise self._changed(os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            raise self._changed(0) from None
        except OSError as error:
            raise _unreadable(self.path, error) from None
        try:
            return read_payload(data, 0, stop - start, offset=start)
        except BrokenRecordError as error:
            raise DataError(
                f"{self.path}: record {self.keys[position]} at offset {start} must be whole, but "
                f"{error}; restore the shard, or set data.on_corrupt=skip"
            ) from None


_MOST_EXTENT = 1 << 29  # what a damaged record is read for, at most
_MOST_OPEN = 32  # shards that one process keeps open


@functools.lru_cache(maxsize=_MOST_OPEN)
def _open_shard(path: Path, identity: tuple[int, int]) -> BinaryIO:
    """A shard for reading at offsets; closed when it is neither among the last ones nor in use."""
    file = open(path, "rb", buffering=0)  # noqa: SIM115
    found = os.fstat(file.fileno())
    if (found.st_dev, found.st_ino) != identity:
        file.close()
        raise ShardChangedError(
            f"{path}: must not change while it is read, but was replaced by another file; restore "
            "it and run the same command again"
        )
    return file


def _unreadable(path: Path, error: OSError) -> Exception:
    if error.errno in SHORTAGES:
        return error
    return DataError(f"{path}: must be a readable .rec file, but {error.strerror}")


def shard_paths(path: Path) -> list[Path]:
    """The `.rec` files of a data set, which is one of them or a folder of them, by name.

    Raises:
        DataError: there are none.
    """
    if path.is_dir():
        shards = sorted(p for p in path.glob("*.rec") if not p.name.startswith("."))
        if not shards:
            raise DataError(f"{path}: must hold .rec shards, but it has none; make them with pack")
        return shards
    if not path.is_file():
        raise DataError(f"{path}: must be a .rec file or a folder of them, but there is none")
    return [path]
