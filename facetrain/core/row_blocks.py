"""Arrays on the disk whose rows many processes write, block by block, and which blocks are done.

What an interrupted job finished stays finished, at any number of processes, and is verified before
it is trusted: beside each finished block stands a digest of its rows. Blocks are written as bytes,
not through a memory map, so that other machines see them.
"""

import contextlib
import io
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from facetrain.core.artifact import Sealed, not_writable, read_sealed, write_sealed
from facetrain.core.digest import bytes_digest
from facetrain.core.errors import DataError, OutputError
from facetrain.core.log import logger
from facetrain.core.text import printable, printable_size

_COMMIT_SECONDS = 5.0
"""What a kill costs at most, beside the block in hand."""


class _State(Sealed):
    """What the blocks belong to, and what the job planned at its start."""

    identity: dict[str, Any]
    plan: dict[str, Any]


class RowBlocks:
    """`.npy` arrays of the same number of rows, in blocks of `block_rows` of them.

    Args:
        folder: holds the arrays, and `.progress/` until the job is over.
        arrays: file name -> shape and type.
        block_rows: rows that are written together.
    """

    def __init__(
        self,
        folder: Path,
        arrays: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
        block_rows: int,
    ) -> None:
        self.arrays = {folder / name: (s, np.dtype(dtype)) for name, (s, dtype) in arrays.items()}
        self.num_rows = next(iter(arrays.values()))[0][0]
        self.block_rows = block_rows
        self.folder = folder / ".progress"

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.num_rows // self.block_rows)

    def rows(self, block: int) -> tuple[int, int]:
        """First row of a block, and the first after it."""
        return block * self.block_rows, min((block + 1) * self.block_rows, self.num_rows)

    def interrupted(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The plan of the interrupted job of this identity; None where there is none.

        One that left damaged files is none, with a warning.
        """
        state = self.folder / "state.json"
        if not state.is_file():
            return None
        try:
            found = read_sealed(state, _State)
        except DataError as error:
            logger.warning("%s; starting over", error)
            return None
        if found.identity != dict(identity):
            return None
        for path, (shape, dtype) in self.arrays.items():
            if not _is_of(path, shape, dtype):
                logger.warning("%s: must be %s of shape %s; starting over", path, dtype, shape)
                return None
        return dict(found.plan)

    def create(self) -> None:
        """Start over: arrays of zeros, with their disk space reserved, and no block done.

        Raises:
            OutputError: the disk cannot hold the arrays.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for path, (shape, dtype) in self.arrays.items():
            size = _num_bytes(shape, dtype)
            try:
                path.unlink(missing_ok=True)  # a pipe would be waited for, a link written through
                with open(path, "xb") as file:
                    file.write(_header(shape, dtype))
                    file.truncate(size)
                    file.flush()
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise OutputError(
                    f"{printable(path)}: needs {printable_size(size)} of disk, but "
                    f"{error.strerror}; free some or choose another --out"
                ) from None

    def note(self, identity: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """Keep what the job is and has planned, for `interrupted`."""
        write_sealed(self.folder / "state.json", _State(identity=dict(identity), plan=dict(plan)))

    def remaining(self) -> list[int]:
        """Numbers of the blocks that are not done, in order; reads those that are.

        A block that was noted as done and holds other rows now is done again, with a warning.
        """
        noted: dict[int, list[str]] = {}
        for path in sorted(self.folder.glob("done-*.txt")):
            complete, _, _ = path.read_bytes().decode("ascii", "replace").rpartition("\n")
            for line in complete.splitlines():
                number, *digests = line.split()
                if number.isdecimal() and len(digests) == len(self.arrays):
                    noted[int(number)] = digests
        changed = 0
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in self.arrays]
            for block in [one for one in noted if one < self.num_blocks]:
                found = []
                for file, (shape, dtype) in zip(files, self.arrays.values(), strict=True):
                    first, size = self._place(block, shape, dtype)
                    file.seek(first)
                    found.append(bytes_digest(file.read(size)))
                if found != noted[block]:
                    del noted[block]
                    changed += 1
        if changed:
            logger.warning(
                "%s: %d blocks are not as they were written, and are made again",
                self.folder.parent,
                changed,
            )
        return [block for block in range(self.num_blocks) if block not in noted]

    @contextlib.contextmanager
    def writer(self) -> Iterator["BlockWriter"]:
        """Write blocks inside the block; what was written counts also when it fails."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "r+b", buffering=0)) for path in self.arrays]
            notes = self.folder / f"done-{uuid.uuid4().hex[:12]}.txt"
            writer = BlockWriter(self, files, stack.enter_context(open(notes, "a")))
            try:
                yield writer
            finally:
                writer.commit()

    def finish(self) -> None:
        """Forget which blocks are done: all are."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, block: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
        """First byte and number of bytes of a block in a file."""
        first, last = self.rows(block)
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        return len(_header(shape, dtype)) + first * row_bytes, (last - first) * row_bytes


class BlockWriter:
    """Writes blocks, and notes which are on the disk in a file of this process's own.

    A line counts once it is complete, and no process appends to another's file, so a kill at any
    byte loses at most the blocks since the last commit.
    """

    def __init__(self, blocks: RowBlocks, files: list[Any], notes: Any) -> None:
        self._blocks, self._files, self._notes = blocks, files, notes
        self._pending: list[str] = []
        self._committed = time.monotonic()

    def write(self, block: int, *arrays: NDArray[Any]) -> None:
        """Write the rows of a block, an array for each file; commit now and then.

        Raises:
            OutputError: the disk refuses.
        """
        digests = []
        for file, array, (path, (shape, dtype)) in zip(
            self._files, arrays, self._blocks.arrays.items(), strict=True
        ):
            first, size = self._blocks._place(block, shape, dtype)
            content = memoryview(np.ascontiguousarray(array, dtype).tobytes())
            assert len(content) == size, (array.shape, shape)
            digests.append(bytes_digest(content))
            try:
                file.seek(first)
                while content:
                    content = content[file.write(content) :]
            except OSError as error:
                raise not_writable(path, error) from None
        self._pending.append(" ".join([str(block), *digests]))
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make the written blocks count: first the rows reach the disk, then their numbers."""
        try:
            for file in self._files:
                os.fsync(file.fileno())
            self._notes.write("".join(f"{line}\n" for line in self._pending))
            self._notes.flush()
        except OSError as error:
            raise not_writable(self._blocks.folder, error) from None
        self._pending.clear()
        self._committed = time.monotonic()


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What stands before the rows in an `.npy`."""
    content = io.BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": tuple(map(int, shape))}
    np.lib.format.write_array_header_1_0(content, description)
    return content.getvalue()


def _is_of(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether it is a file of our own with the length and the beginning of such an array."""
    header = _header(shape, dtype)
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with open(path, "rb") as file:
            return (
                os.fstat(file.fileno()).st_size == _num_bytes(shape, dtype)
                and file.read(len(header)) == header
            )
    except OSError:
        return False


def _num_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return len(_header(shape, dtype)) + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
