"""The journal of a review: one JSON line a decision, on disk before it is acknowledged.

It is the truth; the overlay follows from it. Nothing in it is ever changed: an undo is a further
line. Rows and labels are the data set's own, so that another cleaning of the same shards, with
other settings, leaves it valid.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any, Literal

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.plain_file import read_plain

Action = Literal["keep", "drop", "move", "merge", "swap"]
ACTIONS: tuple[Action, ...] = ("keep", "drop", "move", "merge", "swap")
_FORMAT = "facetrain review 1"
_LONGEST_HEAD = 4096


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a person said of some images."""

    action: Action
    rows: tuple[int, ...]  # of the data set
    label: int  # class id they belong to from now on; of a drop, the one they are dropped from
    merged: int = -1  # merge: the class id that has gone into `label`
    other: int = -1  # swap of two images: the class id of the second; `label` is the first's

    @property
    def kept(self) -> bool:
        """Whether the images stay in use."""
        return self.action != "drop"

    @property
    def labels(self) -> int | tuple[int, ...]:
        """The class id of all images, or of each."""
        return (self.label, self.other) if self.action == "swap" else self.label

    def as_entry(self) -> dict[str, Any]:
        """As a line of the journal."""
        entry = dataclasses.asdict(self)
        if self.action != "swap":
            del entry["other"]
        return entry


@dataclasses.dataclass
class History:
    """Where a review stands: decisions that hold, decisions taken back, identities looked at."""

    done: list[Decision] = dataclasses.field(default_factory=list)
    undone: list[Decision] = dataclasses.field(default_factory=list)
    seen: set[int] = dataclasses.field(default_factory=set)

    def add(self, entry: dict[str, Any]) -> None:
        """Take one line in.

        Raises:
            KeyError, TypeError, ValueError, IndexError: it is no line of a journal.
        """
        match entry["action"]:
            case "undo":
                self.undone.append(self.done.pop())
            case "redo":
                self.done.append(self.undone.pop())
            case "seen":
                self.seen.add(int(entry["label"]))
            case action if action in ACTIONS:
                rows = tuple(map(int, entry["rows"]))
                label, merged, other = entry["label"], entry["merged"], entry.get("other", -1)
                if (action == "swap") != (other >= 0) or (action == "swap" and len(rows) != 2):
                    raise ValueError("a swap, and nothing else, has two rows and `other`")
                self.done.append(Decision(action, rows, int(label), int(merged), int(other)))
                self.undone.clear()
            case action:
                raise ValueError(f"no such action: {action!r}")


@dataclasses.dataclass(frozen=True)
class Journal:
    """What a journal file says."""

    dataset_fingerprint: str  # FaceDataset.base_fingerprint
    num_rows: int
    history: History
    num_bytes: int  # of its whole lines; a kill may leave a part of one after them


def read_journal(path: Path) -> Journal:
    """Read a journal; a last line that a kill cut short was never acknowledged and is left out.

    Raises:
        DataError: it cannot be read, or a line is not what it should be.
    """
    try:
        content = read_plain(path)
    except OSError as error:
        raise DataError(f"{path}: must be a readable journal; {error.strerror}") from None
    whole = content[: content.rfind(b"\n") + 1]
    history, number = History(), 0
    lines = whole.splitlines()
    try:
        head = json.loads(lines[0])
        if head["format"] != _FORMAT:
            raise ValueError(f"its format is {head['format']!r}")
        fingerprint, num_rows = str(head["dataset"]), int(head["num_rows"])
        for number in range(1, len(lines)):
            entry = json.loads(lines[number])
            history.add(entry)
            rows = entry.get("rows", ())
            if any(not 0 <= row < num_rows for row in rows) or entry.get("label", 0) < 0:
                raise ValueError("a row or label is out of range")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path}: line {number + 1} must be of a review's journal ({_FORMAT}), but {error!r}; "
            "restore the file, or move it away to review anew"
        ) from None
    return Journal(fingerprint, num_rows, history, len(whole))


class JournalWriter:
    """Appends to a journal that nobody else has open.

    Args:
        file: the journal, locked, opened to append without a buffer.
        history: what it says so far.
    """

    def __init__(self, file: RawIOBase, history: History) -> None:
        self._file, self.history = file, history

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line to the disk, then take it in.

        Raises:
            OSError: the disk is full, say; the journal is then as it was before.
        """
        _write_line(self._file, entry)
        self.history.add(entry)


@contextlib.contextmanager
def open_journal(path: Path, dataset_fingerprint: str, num_rows: int) -> Iterator[JournalWriter]:
    """Open the journal of a data set to append to it, new or as an earlier review left it.

    Raises:
        DataError: another review has it open, it belongs to another data set, or is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # a pipe would wait for ever, a device never end
        raise DataError(f"{path}: must be a journal, but is no plain file; move it away")
    with open(path, "ab", buffering=0) as file:
        _lock(file, path)
        if b"\n" not in path.read_bytes()[:_LONGEST_HEAD]:
            file.truncate(0)
            head = {"format": _FORMAT, "dataset": dataset_fingerprint, "num_rows": num_rows}
            _write_line(file, head)
            _sync_folder(path.parent)
        journal = read_journal(path)
        if (journal.dataset_fingerprint, journal.num_rows) != (dataset_fingerprint, num_rows):
            raise DataError(
                f"{path}: must be of the {num_rows} images with fingerprint "
                f"{dataset_fingerprint[:12]}, but is of {journal.num_rows} with "
                f"{journal.dataset_fingerprint[:12]}; move it away to review the new shards"
            )
        if path.stat().st_size > journal.num_bytes:
            logger.warning("%s: its last line was cut short and is left out", path)
            file.truncate(journal.num_bytes)
        yield JournalWriter(file, journal.history)


def _write_line(file: RawIOBase, value: dict[str, Any]) -> None:
    """All of a line, or nothing of it; on the disk when this returns."""
    start = os.fstat(file.fileno()).st_size
    line = memoryview(json.dumps(value, separators=(",", ":")).encode() + b"\n")
    try:
        while line:
            line = line[file.write(line) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(start)
        raise


def _lock(file: RawIOBase, path: Path) -> None:
    """One review at a time; the lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps two reviews apart there
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(
            f"{path}: must be open in one review at a time, but another one has it; end that first"
        ) from None


def _sync_folder(folder: Path) -> None:
    """A new file survives a power cut once its folder is on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
