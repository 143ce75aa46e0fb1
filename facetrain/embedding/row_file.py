"""Rows of an `.npy` written in place by many processes, and the note of which are done."""

import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COMMIT_SECONDS = 5.0
"""What a kill costs at most, beside the batch in hand."""


class RowWriter:
    """Writes rows of an existing `.npy` array in place, without mapping it."""

    def __init__(self, path: Path) -> None:
        array = np.load(path, mmap_mode="r")
        self._offset, self._row_bytes, self._dtype = array.offset, array[:1].nbytes, array.dtype
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed in close()

    def write(self, first_row: int, rows: NDArray[Any]) -> None:
        """Write `rows` (B, ...) from `first_row` on."""
        self._file.seek(self._offset + first_row * self._row_bytes)
        content = memoryview(np.ascontiguousarray(rows, self._dtype).tobytes())
        while content:
            content = content[self._file.write(content) :]

    def sync(self) -> None:
        """Return when what was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BatchProgress:
    """Which batches are on the disk: text files of batch numbers, one for each process that wrote.

    A line counts once it is complete, and no process appends to another's file, so a kill at any
    byte loses at most the batches since the last commit.
    """

    def __init__(self, folder: Path, writers: Sequence[RowWriter]) -> None:
        self._writers = writers
        path = folder / f"done-{uuid.uuid4().hex[:12]}.txt"
        self._file = open(path, "a", encoding="ascii")  # noqa: SIM115 - closed in __exit__
        self._pending: list[int] = []
        self._committed = time.monotonic()

    def add(self, batch: int) -> None:
        """Note a written batch, and commit now and then."""
        self._pending.append(batch)
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make the noted batches count: first the rows reach the disk, then their numbers."""
        for writer in self._writers:
            writer.sync()
        self._file.write("".join(f"{batch}\n" for batch in self._pending))
        self._file.flush()
        self._pending.clear()
        self._committed = time.monotonic()

    def __enter__(self) -> "BatchProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, also when the run fails: what was embedded is not lost."""
        self.commit()
        self._file.close()
        for writer in self._writers:
            writer.close()


def done_batches(folder: Path) -> set[int]:
    """The batches that every process so far has noted in `folder`."""
    done: set[int] = set()
    for path in folder.glob("done-*.txt"):
        complete, _, _ = path.read_text(encoding="ascii").rpartition("\n")
        done.update(int(line) for line in complete.split())
    return done
