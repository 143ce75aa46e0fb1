"""What `pack` reads: a folder per identity, an MXNet `.lst`, or a tar of identity folders."""

import bz2
import dataclasses
import gzip
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from facetrain.core.artifact import atomic_path, fingerprint
from facetrain.core.errors import DataError

_COMPRESSED: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZ": bz2.BZ2File,
    b"\xfd7": lzma.LZMAFile,
}


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
            DataError: the file is missing or shorter than it was.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.length)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from None
        if self.length > len(data):
            raise DataError(f"is cut short: {len(data)} of {self.length} bytes")
        return data


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a source, those of one class together."""

    images: list[SourceImage]
    identities: list[str] | None  # name of each class; None where the source numbers them itself
    refused: list[tuple[str, str]]  # (name, reason)
    digest: str  # changes when the source does


def list_images(source: Path, scratch: Path) -> Listing:
    """List a source. Only names and sizes are read.

    Args:
        source: folder of identity folders, `.lst`, or tar (`.tar`, `.tar.gz`, ...).
        scratch: where a compressed tar is unpacked to, as one plain tar.

    Raises:
        DataError: there is no such source, or it holds no images.
    """
    if source.is_dir():
        listing = _list_folder(source)
    elif source.suffix == ".lst" and source.is_file():
        listing = _list_lst(source)
    elif source.is_file():
        listing = _list_tar(source, scratch)
    else:
        raise DataError(f"{source}: must be a folder, a .lst or a tar, but there is none")
    if not listing.images:
        raise DataError(
            f"{source}: must hold images (identity/image.jpg, or index<TAB>label<TAB>path lines), "
            "but none was found"
        )
    return listing


def _list_folder(source: Path) -> Listing:
    """Identities are the subfolders by name, images all files below them, hidden ones left out."""
    identities = sorted(e.name for e in os.scandir(source) if e.is_dir() and e.name[0] != ".")
    images = []
    for label, identity in enumerate(identities):
        files = (
            Path(folder, name)
            for folder, _, names in os.walk(source / identity)
            for name in names
            if not name.startswith(".")
        )
        for file in sorted(files):
            name = file.relative_to(source).as_posix()
            images.append(SourceImage(name, (float(label),), str(file)))
    return Listing(images, identities, [], _digest(images))


def _list_lst(source: Path) -> Listing:
    """Labels stay as the `.lst` numbers them; images are put in the order of their class."""
    images = []
    text = source.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            _, *labels, name = line.rstrip("\r").split("\t")
            label = tuple(float(one) for one in labels)
            if not (label and label[0] >= 0 and label[0].is_integer()):
                raise ValueError
        except ValueError:
            raise DataError(
                f"{source}: line {number} must be index<TAB>label(s)<TAB>path with a class from 0 "
                f"up, got {line!r:.80}"
            ) from None
        images.append(SourceImage(name, label, str(source.parent / name)))
    images.sort(key=lambda image: image.label[0])
    return Listing(images, None, [], _digest(images))


def _list_tar(source: Path, scratch: Path) -> Listing:
    """Identities are the folders of the members; a folder around all of them is none.

    Nothing is extracted: members are read in place, so no name in the archive becomes a path.
    """
    members: dict[tuple[str, ...], tarfile.TarInfo] = {}
    refused = []
    try:
        archive = _plain_tar(source, scratch)
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isdir() or path.name.startswith("."):
                    continue
                if path.is_absolute() or ".." in path.parts:
                    refused.append((member.name, "its name points outside the archive"))
                elif not member.isreg() or member.issparse():
                    refused.append((member.name, "is not a plain file"))
                else:
                    members[path.parts] = member
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{source}: must be a tar of identity folders; {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise  # the disk; without a number it is the decompressor
        raise DataError(f"{source}: must be a tar of identity folders; {error}") from None
    around = _folders_around(list(members))
    inside = {
        parts[around:]: member for parts, member in members.items() if len(parts) >= around + 2
    }
    for parts, member in members.items():
        if len(parts) < around + 2:
            refused.append((member.name, "lies in no identity folder"))
    identities = sorted({parts[0] for parts in inside})
    label_of = {identity: float(label) for label, identity in enumerate(identities)}
    images = [
        SourceImage(
            "/".join(parts),
            (label_of[parts[0]],),
            str(archive),
            member.offset_data,
            member.size,
        )
        for parts, member in sorted(inside.items(), key=lambda item: item[0])
    ]
    return Listing(images, identities, refused, fingerprint(source))


def _folders_around(names: list[tuple[str, ...]]) -> int:
    """How many leading folders hold everything, with identity folders for most below them."""
    depth = 0
    while True:
        deeper = [parts for parts in names if len(parts) >= depth + 3]
        common = {parts[: depth + 1] for parts in names if len(parts) > depth + 1}
        if len(common) != 1 or 2 * len(deeper) <= len(names):
            return depth
        depth += 1


def _plain_tar(source: Path, scratch: Path) -> Path:
    """`source`, or where it was decompressed to: members are read at their offsets."""
    try:
        tarfile.open(source, "r:").close()
        return source
    except tarfile.ReadError:
        with open(source, "rb") as file:
            decompress = _COMPRESSED.get(file.read(2))
        if decompress is None:
            raise
    with (
        decompress(source) as packed,
        atomic_path(scratch) as temporary,
        open(temporary, "wb") as plain,
    ):
        shutil.copyfileobj(packed, plain, 1 << 20)
    return scratch


def _digest(images: Iterable[SourceImage]) -> str:
    """By names, labels, sizes and times of change: reading every image twice costs hours."""
    digest = hashlib.sha256()
    for image in images:
        try:
            stat = os.stat(image.path)
            state = f"{stat.st_size},{stat.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(repr((image.name, image.label, state)).encode())
    return digest.hexdigest()
