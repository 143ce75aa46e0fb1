"""An image that `pack` reads, and the list of all of a source."""

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable

from facetrain.core.errors import CLOSED, SHORTAGES, DataError, UserError
from facetrain.core.text import printable

MAX_BYTES = 1 << 29
"""A RecordIO record is shorter; so must an image file be."""


@dataclasses.dataclass(frozen=True, slots=True)
class SourceImage:
    """One image file, or one member of a tar."""

    name: str  # path below the source: what landmarks and the list of skipped images call it
    label: tuple[float, ...]  # label[0] is the class
    path: str
    offset: int = 0
    length: int = -1  # -1: to the end of the file

    def read(self) -> bytes:
        """The image file's bytes.

        Raises:
            DataError: the file is missing, shorter than it was, or longer than a record may be.
            UserError: it is closed to this user. Passed over, it would be left out for good: once
                it is opened, the source looks as it did when it was packed.
        """
        try:
            with open(self.path, "rb", opener=_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DataError("is a pipe, socket, device or folder, not a file")
                file.seek(self.offset)
                data = file.read(MAX_BYTES if self.length < 0 else min(self.length, MAX_BYTES))
        except OSError as error:
            raise unreadable(self.path, error) from None
        if len(data) == MAX_BYTES:
            raise DataError("must be under 512 MiB")
        if self.length > len(data):
            raise DataError(f"is cut short: {len(data)} of {self.length} bytes")
        return data


def unreadable(path: str, error: OSError) -> Exception:
    """A DataError, its file to be named, where the file is at fault; else another error."""
    if error.errno in SHORTAGES:
        return error
    if error.errno in CLOSED:
        return UserError(
            f"{printable(path)}: must be readable, but {error.strerror}; make it readable, or move "
            "it out of the source"
        )
    return DataError(f"cannot be read: {error.strerror}")


def _without_waiting(path: str, flags: int) -> int:
    """Open also a pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


Named = tuple[str, str]
"""A file's name and the reason why it is not packed."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a source, those of one class together, and every other file of it."""

    images: list[SourceImage]
    identities: list[str] | None  # name of each class; None where the source numbers them itself
    refused: list[Named]  # images, or what may be one, that cannot be read or are nobody's
    ignored: list[Named]  # other files
    digest: str  # changes when the source does
    around: str = ""  # "a/b/" where names are below that folder of the source


def state_digest(images: Iterable[SourceImage]) -> str:
    """By names, labels, sizes and times of change: reading every image twice costs hours."""
    digest = hashlib.sha256()
    for image in images:
        try:
            status = os.stat(image.path)
            state = f"{status.st_size},{status.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(repr((image.name, image.label, state)).encode())
    return digest.hexdigest()
