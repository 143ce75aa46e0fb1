"""A folder of identity folders, as `pack` reads it: every file is found, and no link leads astray.

Links to folders and files are followed. A link inside a folder of images to another one adds that
one's images to the same person.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from facetrain.core.errors import DataError
from facetrain.core.text import printable
from facetrain.data.images.image_header import HEAD_BYTES
from facetrain.data.sources.identity_folders import Found, FoundImage, Parts, may_be_image
from facetrain.data.sources.image import unreadable

_MOST_WAYS = 64  # to one folder: links to links multiply

_Inode = tuple[int, int]


class _Folder(NamedTuple):
    path: str
    parts: Parts
    owner: Parts  # that its images count as lying in
    hidden: bool
    inside: frozenset[_Inode]  # the folders around it, and itself


def find_in_folder(source: Path, out: Path) -> Found:
    """Every file below `source`; only names, kinds and, of unusual names, first bytes are read.

    Args:
        out: left out where it lies in `source`: it is what a pack writes.

    Raises:
        DataError: a folder that cannot be read.
    """
    found = Found()
    ways: dict[_Inode, int] = {}
    own = _inode(os.stat(out)) if out.is_dir() else None
    pending = [_Folder(str(source), (), (), False, frozenset([_inode(os.stat(source))]))]
    while pending:
        folder = pending.pop()
        links: list[tuple[_Folder, bool]] = []
        before = len(found.images)
        for entry in _entries(folder.path):
            parts = (*folder.parts, entry.name)
            hidden = folder.hidden or entry.name.startswith(".")
            try:
                status = entry.stat()
            except OSError as error:
                _refuse_unread(found, entry, parts, hidden, error)
                continue
            if not stat.S_ISDIR(status.st_mode):
                _add_file(found, entry, parts, folder.owner, hidden, status)
                continue
            inode, linked = _inode(status), entry.is_symlink()
            if inode == own:
                continue
            ways[inode] = ways.get(inode, 0) + 1
            if inode in folder.inside:
                _refuse(found, parts, hidden, "is a link to a folder that it lies in")
            elif ways[inode] > _MOST_WAYS:
                _refuse(found, parts, hidden, f"is the {_MOST_WAYS + 1}th way to one folder")
            else:
                if not hidden:
                    found.folders.add(parts)
                inside = folder.inside | {inode}
                links.append((_Folder(entry.path, parts, parts, hidden, inside), linked))
        holds_images = len(found.images) > before
        for link, linked in links:
            adds = linked and holds_images and folder.parts
            pending.append(link._replace(owner=folder.owner) if adds else link)
    return found


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{printable(path)}: must be a folder that can be read, but {error.strerror}; make it "
            "readable, or move it out of the source"
        ) from None


def _add_file(
    found: Found,
    entry: os.DirEntry[str],
    parts: Parts,
    owner: Parts,
    hidden: bool,
    status: os.stat_result,
) -> None:
    if hidden or not stat.S_ISREG(status.st_mode):
        _refuse(found, parts, hidden, "is a pipe, socket or device, not a file")
        return
    try:
        is_image = may_be_image(entry.name) or may_be_image(entry.name, _head(entry.path))
    except OSError as error:
        _refuse_unread(found, entry, parts, hidden, error)
        return
    if is_image:
        found.images.append(FoundImage(parts, owner, entry.path))
    else:
        found.ignored.append((parts, "is no image, by its name and its first bytes"))


def _refuse(found: Found, parts: Parts, hidden: bool, reason: str) -> None:
    if hidden:
        found.ignored.append((parts, "is hidden"))
    else:
        found.refused.append((parts, reason))


def _refuse_unread(
    found: Found, entry: os.DirEntry[str], parts: Parts, hidden: bool, error: OSError
) -> None:
    """Refuse the file if it is at fault; raise what is."""
    known = unreadable(entry.path, error)
    if not isinstance(known, DataError):
        raise known
    _refuse(found, parts, hidden, str(known))


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino
