"""Where each kept image goes: folders named as the identities are, files as they were."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from facetrain.core.errors import DataError

_SIGNATURES = (
    (b"\xff\xd8", ".jpg"), (b"\x89PNG\r\n\x1a\n", ".png"), (b"BM", ".bmp"), (b"GIF8", ".gif"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"\0\0\0\x0cjP  ", ".jp2"),
    (b"\xff\x4f\xff\x51", ".j2k"), (b"P5", ".pgm"), (b"P6", ".ppm"),
)  # fmt: skip
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif", ".dib": ".bmp"}
_LONGEST = 200  # bytes of a file's or folder's name; file systems take 255


def image_suffix(encoded: bytes) -> str:
    """The suffix that fits an image file's first bytes.

    Raises:
        DataError: they are of no format known here.
    """
    for signature, suffix in _SIGNATURES:
        if encoded.startswith(signature):
            return suffix
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return ".webp"
    if encoded[4:12] in (b"ftypavif", b"ftypavis"):
        return ".avif"
    raise DataError(f"must be an image, but its {len(encoded)} bytes begin with {encoded[:8]!r}")


def folder_names(labels: list[int], names: list[str]) -> list[str]:
    """A folder for each identity: its name where that can be one, else its number.

    A name may have several levels, `0/ann`. Two identities of one name, as two joined sets may
    have, get two folders; and no folder lies in another.
    """
    taken: set[str] = set()  # folders of images, as a file system that ignores case sees them
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
