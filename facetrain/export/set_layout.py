"""Where each kept image goes: folders named as the identities are, files as they were."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from facetrain.core.errors import DataError
from facetrain.core.run_folder import SUSPECT_FILE
from facetrain.data.images.image_header import image_format

_SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif",
    "AVIF": ".avif",
}  # fmt: skip
_OF_PNM = {b"1": ".pbm", b"2": ".pgm", b"3": ".ppm", b"4": ".pbm", b"5": ".pgm", b"6": ".ppm"}
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif", ".dib": ".bmp"}
IMAGES_FILE, LIST_FILE = "images.csv", "train.lst"
BESIDE = (IMAGES_FILE, LIST_FILE, SUSPECT_FILE)
"""Files that lie beside the folders."""
_LONGEST = 200  # bytes of a file's or folder's name; file systems take 255


def image_suffix(encoded: bytes) -> str:
    """The suffix that fits an image file's first bytes.

    Raises:
        DataError: they are of no format known here.
    """
    kind = image_format(encoded)
    if kind == "PNM":
        return _OF_PNM[encoded[1:2]]
    if kind == "JPEG 2000":
        return ".j2k" if encoded[:1] == b"\xff" else ".jp2"  # a bare codestream, or in its boxes
    if kind is not None:
        return _SUFFIXES[kind]
    raise DataError(f"must be an image, but its {len(encoded)} bytes begin with {encoded[:8]!r}")


def folder_names(labels: list[int], names: list[str]) -> list[str]:
    """A folder for each identity: its name where that can be one, else its number.

    A name may have several levels, `0/ann`. Two identities of one name, as two joined sets may
    have, get two folders; and no folder lies in another.
    """
    taken = set(BESIDE)  # as a file system that ignores case sees them
    inner: set[str] = set()  # folders around them
    found = []
    width = max((len(str(label)) for label in labels), default=1)
    for label, name in zip(labels, names, strict=True):
        plain = f"{label:0{width}d}"
        wanted = name if _fits(name) else plain
        for choice in _variants(wanted, plain):
            folded = choice.casefold()
            above = {str(one) for one in PurePosixPath(folded).parents}
            if folded not in taken and folded not in inner and not above & taken:
                break
        taken.add(folded)
        inner |= above
        found.append(choice)
    return found


def _variants(name: str, plain: str) -> Iterator[str]:
    yield name
    flat = name.replace("/", "__")
    yield flat
    yield f"{flat}__{plain}"
    number = 1
    while True:
        yield f"{flat}__{plain}_{number}"
        number += 1


def _fits(name: str) -> bool:
    """Whether every level of a name is a visible folder below the output."""
    parts = name.split("/")
    return all(
        part and part[0] != "." and "\0" not in part and len(_as_bytes(part)) <= _LONGEST
        for part in parts
    )


class FileNames:
    """Hands out file names, each once in its folder."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    def next(self, folder: str, source: str | None, key: str, suffix: str) -> str:
        """A name in `folder`: that of the source file with the suffix that fits, else the key."""
        stem, given = key, ""
        if source is not None and _fits(PurePosixPath(source).name):
            path = PurePosixPath(source)
            stem, given = path.stem, path.suffix
        fitting = _SAME.get(given.lower(), given.lower()) == suffix
        ending = given if fitting else suffix
        number = 1
        while True:
            name = f"{stem}{ending}" if number == 1 else f"{stem}_{number}{ending}"
            if (folder, name.casefold()) not in self._taken:
                self._taken.add((folder, name.casefold()))
                return name
            number += 1


def _as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
