"""Which folder of a source is a person: an identity is the folder that holds images.

The same rules hold for a folder and a tar. A folder that encloses all identities is not one of
them; images beside the identities' folders belong to nobody; and a folder of images inside another
one is refused, since either could be the person's.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.text import printable
from facetrain.data.images.image_header import image_format
from facetrain.data.sources.image import Listing, Named, SourceImage, state_digest

Parts = tuple[str, ...]
"""A path below the source."""

_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
     ".jp2", ".j2k", ".avif", ".heic", ".heif", ".jxl", ".pbm", ".pgm", ".ppm", ".pnm")
)  # fmt: skip


class FoundImage(NamedTuple):
    """A file that may be an image."""

    parts: Parts  # its path
    folder: Parts  # that it counts as lying in
    path: str  # the file, or the tar
    offset: int = 0  # where in the tar
    length: int = -1  # in bytes; -1 for a whole file


@dataclasses.dataclass
class Found:
    """Everything in a source."""

    images: list[FoundImage] = dataclasses.field(default_factory=list)
    folders: set[Parts] = dataclasses.field(default_factory=set)
    refused: list[tuple[Parts, str]] = dataclasses.field(default_factory=list)
    ignored: list[tuple[Parts, str]] = dataclasses.field(default_factory=list)


def may_be_image(name: str, head: bytes | None = None) -> bool:
    """Whether a file's name says that it is an image; or, given its first bytes, they do."""
    if head is None:
        return Path(name).suffix.lower() in _SUFFIXES
    return image_format(head) is not None


def arrange(source: Path, found: Found, digest: str | None = None) -> Listing:
    """The identities of a source, their images in order.

    Args:
        digest: of the source; None: by its files.

    Raises:
        DataError: a folder of images in another, or no folder with images at all.
    """
    holders = {image.folder for image in found.images}
    empty = _empty(found.folders, holders)
    around = _folder_around(holders | empty, holders)
    above = {holder for holder in holders if holder == around[: len(holder)]}
    people = holders - above
    if found.images and not people:
        raise DataError(
            f"{source}: must hold a folder of images for each person, but its images "
            f"({len(found.images)}) lie in no folder"
        )
    _check_levels(source, people, found)
    _warn_of_namesakes(source, people)
    people |= {folder for folder in empty if folder[: len(around)] == around}
    number = {folder: label for label, folder in enumerate(sorted(people))}

    def name(parts: Parts) -> str:
        inside = parts[: len(around)] == around
        return "/".join(parts[len(around) :] if inside else parts)

    refused: list[Named] = [(name(parts), reason) for parts, reason in found.refused]
    images = []
    for image in sorted(found.images, key=lambda image: (image.folder, image.parts)):
        if image.folder in above:
            refused.append((name(image.parts), "lies beside the identity folders, not in one"))
            continue
        label = (float(number[image.folder]),)
        images.append(SourceImage(name(image.parts), label, image.path, image.offset, image.length))
    return Listing(
        images,
        [name(folder) for folder in sorted(people)],
        sorted(refused),
        sorted((name(parts), reason) for parts, reason in found.ignored),
        state_digest(images) if digest is None else digest,
        "".join(f"{part}/" for part in around),
    )


def _empty(folders: set[Parts], holders: set[Parts]) -> set[Parts]:
    """Folders without images, without folders, and inside no folder of images."""
    leaves = folders - {folder[:-1] for folder in folders} - holders - {()}
    return {
        leaf for leaf in leaves if not any(leaf[:depth] in holders for depth in range(1, len(leaf)))
    }


def _folder_around(folders: set[Parts], holders: set[Parts]) -> Parts:
    """The folder that is around all identities.

    One that holds images itself is such a folder when two or more others in it do, and all is
    inside it; with one other it may be a person with a subfolder.
    """
    around: Parts = ()
    while True:
        depth = len(around) + 1
        below = {folder[:depth] for folder in folders if len(folder) >= depth}
        if len(below) != 1:
            return around
        (only,) = below
        inside = {folder[: depth + 1] for folder in holders if len(folder) > depth}
        if len(inside) < (2 if only in holders else 1):
            return around
        around = only


def _warn_of_namesakes(source: Path, people: set[Parts]) -> None:
    """One name in two folders: a person in `train` and `val`, or a session of two people."""
    groups: dict[str, list[Parts]] = {}
    for folder in sorted(people):
        groups.setdefault(folder[-1], []).append(folder)
    shared = [group for group in groups.values() if len(group) > 1]
    if shared:
        logger.warning(
            "%s: %s and %s are two identities, as every folder that holds images is one (names in "
            "several folders: %d); if a name means one person, put its images in one folder",
            source, *(printable("/".join(folder)) for folder in shared[0][:2]), len(shared),
        )  # fmt: skip


def _check_levels(source: Path, people: set[Parts], found: Found) -> None:
    for folder in sorted(people):
        for depth in range(1, len(folder)):
            outer = folder[:depth]
            if outer not in people:
                continue
            names = [printable("/".join(one)) for one in (outer, folder)]
            example = {image.folder: printable("/".join(image.parts)) for image in found.images}
            raise DataError(
                f"{source}: an identity is a folder that holds images, but {names[0]} holds some "
                f"({example[outer]}) and {names[1]} inside it too ({example[folder]}); move the "
                "images of one of them"
            )
