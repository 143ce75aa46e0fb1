"""A tar of identity folders, as `pack` reads it: whole to its end, or an error.

Nothing is extracted: members are read in place, so no name in the archive becomes a path.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from facetrain.core.artifact import atomic_path, fingerprint
from facetrain.core.errors import DataError
from facetrain.data.images.image_header import HEAD_BYTES
from facetrain.data.sources.identity_folders import Found, FoundImage, Parts, arrange, may_be_image
from facetrain.data.sources.image import Listing

_COMPRESSED: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZ": bz2.BZ2File,
    b"\xfd7": lzma.LZMAFile,
}
_BLOCK, _CHUNK = 512, 1 << 20
# Photographs hardly compress; uncompressed ones do by 2 to 20. Zeros do by a thousand.
_MOST_EXPANSION, _ALWAYS_ALLOWED = 50, 256 << 20


def list_tar(source: Path, scratch: Path) -> Listing:
    """The identities of a tar, by the rules of a folder.

    Args:
        source: `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz`.
        scratch: where a compressed tar is unpacked to, as one plain tar.

    Raises:
        DataError: no tar, a damaged one, or one that ends before its end mark.
    """
    archive = _plain_tar(source, scratch)
    return arrange(source, _find(source, archive), fingerprint(source))


def _no_tar(source: Path, error: object) -> DataError:
    return DataError(f"{source}: must be a tar of identity folders; {error}")


def _plain_tar(source: Path, scratch: Path) -> Path:
    """`source`, or where it was decompressed to: members are read at their offsets."""
    with open(source, "rb") as file:
        decompress = _COMPRESSED.get(file.read(2))
    if decompress is None:
        return source
    most = source.stat().st_size * _MOST_EXPANSION + _ALWAYS_ALLOWED
    try:
        with (
            decompress(source) as packed,
            atomic_path(scratch) as temporary,
            open(temporary, "wb") as plain,
        ):
            while chunk := packed.read(_CHUNK):
                if plain.tell() + len(chunk) > most:
                    raise _no_tar(
                        source,
                        f"it unfolds to more than {_MOST_EXPANSION} times its size, which "
                        "photographs do not; unpack it yourself if you trust it",
                    )
                plain.write(chunk)
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise _no_tar(source, error) from None
    except OSError as error:
        if error.errno is not None:
            raise  # the disk; without a number it is the decompressor
        raise _no_tar(source, error) from None
    return scratch


def _find(source: Path, archive: Path) -> Found:
    found = Found()
    images: dict[Parts, FoundImage] = {}
    places: dict[Parts, tuple[int, int]] = {}  # of plain files, for hard links to them
    with open(archive, "rb") as file:
        for member in _members(source, archive.stat().st_size, file):
            parts = PurePosixPath(member.name).parts
            hidden = any(part.startswith(".") and part != ".." for part in parts)
            if member.isdir():
                if not hidden and ".." not in parts:
                    found.folders.add(parts)
                continue
            place = (member.offset_data, member.size)
            if member.islnk():
                place = places.get(PurePosixPath(member.linkname).parts, (-1, 0))
            if hidden:
                found.ignored.append((parts, "is hidden"))
            elif member.name.startswith("/") or ".." in parts or not parts:
                found.refused.append((parts or (".",), "its name points outside the archive"))
            elif not (member.isreg() or member.islnk()) or member.issparse() or place[0] < 0:
                found.refused.append((parts, "is not a plain file"))
            else:
                places[parts] = place
                found.folders.add(parts[:-1])
                if may_be_image(parts[-1]) or may_be_image(parts[-1], _head(file, place)):
                    if parts in images:
                        found.ignored.append((parts, "is replaced by a later member of its name"))
                    images[parts] = FoundImage(parts, parts[:-1], str(archive), *place)
                else:
                    found.ignored.append((parts, "is no image, by its name and its first bytes"))
    found.images = [*images.values()]
    return found


def _head(file: BinaryIO, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(min(HEAD_BYTES, place[1]))


def _members(source: Path, size: int, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members of a plain tar of `size` bytes, if it is whole to its end mark."""
    last = "its beginning"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                end = member.offset_data + (member.size if member.isreg() else 0)
                if member.size < 0 or (end > size and not member.issparse()):
                    raise _no_tar(
                        source,
                        f"{member.name!r:.80} should have {member.size} bytes, but the archive "
                        f"ends at {size}: it is cut short, or this header is damaged",
                    )
                last = repr(member.name)
                yield member
            reached = tar.offset
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # a damaged header may raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _no_tar(source, f"after {last:.80}: {error or type(error).__name__}") from None
    _check_end(source, file, reached, last)


def _check_end(source: Path, file: BinaryIO, reached: int, last: str) -> None:
    """The end mark is a block of zeros, and nothing but whole blocks of zeros follows."""
    if file.seek(0, io.SEEK_END) % _BLOCK:
        raise _no_tar(source, f"it must be whole blocks of {_BLOCK} bytes, but has {file.tell()}")
    file.seek(reached)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise _no_tar(source, f"it ends after {last:.80} without an end mark: it is cut short")
    if any(block):
        name = block[:100].partition(b"\0")[0].decode("utf-8", "replace")
        raise _no_tar(
            source, f"the header after {last:.80}, at byte {reached}, is damaged ({name!r:.80})"
        )
    while block := file.read(_CHUNK):
        if any(block):
            raise _no_tar(
                source,
                f"it goes on behind the end mark at byte {reached}, after {last:.80}: it is "
                "damaged there, or two archives were joined; unpack them and pack the folder",
            )
