"""What an unfinished `pack` keeps in its folder: whose it is, and which shards are whole."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from facetrain.core.artifact import Sealed, read_sealed, write_sealed
from facetrain.core.digest import file_digest
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.run_folder import (
    CLASSES_FILE,
    IGNORED_FILE,
    LANDMARKS_FILE,
    MANIFEST_FILE,
    SKIPPED_FILE,
    SUSPECT_FILE,
)
from facetrain.core.text import printable

_CLAIM = ".pack.json"
_STATE = (_CLAIM, ".train*.json", ".train*.csv")
_SHARDS = tuple(
    f"{name}.{suffix}" for name in ("train", "train-[0-9]*") for suffix in ("rec", "idx", "lst")
)
_BESIDE = ("property", CLASSES_FILE, SKIPPED_FILE, IGNORED_FILE, SUSPECT_FILE, LANDMARKS_FILE)
_OF_SHARD = ("{}.rec", "{}.idx", "{}.lst", ".{}.csv")


class _Claim(Sealed):
    """Which pack a folder is of, while it is not finished."""

    identity: str


class Mark(Sealed):
    """What a finished shard holds."""

    digests: dict[str, str]  # of its files
    num_images: int
    num_files: int  # that the images came from
    skipped: list[tuple[str, str]]
    suspect: list[tuple[str, str]]
    begun: list[int]  # classes of the source whose first image is in it, in order


def claim(out: Path, identity: str) -> None:
    """Take the folder for this pack, or go on with it there.

    Raises:
        DataError: it holds anything of another data set, or a file that this pack would replace.
    """
    path = out / _CLAIM
    unfinished = not (out / MANIFEST_FILE).exists()
    if path.is_file() and unfinished:
        with contextlib.suppress(DataError):
            if read_sealed(path, _Claim).identity == identity:
                return
    names = (MANIFEST_FILE, "*.rec", ".train*.json", *_SHARDS, *_BESIDE)
    found = next((one for name in names for one in sorted(out.glob(name))), None)
    if found is not None:
        raise DataError(
            f"{printable(out)}: must be new, or hold this same pack interrupted, but it holds "
            f"another data set ({printable(found.name)}); give another folder or remove this one"
        )
    write_sealed(path, _Claim(identity=identity))


def claim_again(out: Path, identity: str) -> None:
    """Take the folder in which this very pack finished and was damaged since, to start anew."""
    write_sealed(out / _CLAIM, _Claim(identity=identity))
    _remove(out, (MANIFEST_FILE, *_SHARDS))


def shard_digests(out: Path, name: str) -> dict[str, str]:
    """Of every file of the shard `name`."""
    files = [pattern.format(name) for pattern in _OF_SHARD]
    return {file: file_digest(out / file) for file in files if (out / file).is_file()}


def finished_mark(out: Path, name: str) -> Mark | None:
    """The mark of a shard that was finished and is as it was; else None."""
    path = out / f".{name}.json"
    if not path.is_file():
        return None
    try:
        mark = read_sealed(path, Mark)
        if shard_digests(out, name) == mark.digests:
            return mark
        logger.warning(
            "%s: the shard has changed since it was packed; it is packed again", out / f"{name}.rec"
        )
    except DataError as error:
        logger.warning("%s; the shard is packed again", error)
    return None


def remove_state(out: Path) -> None:
    """Of a finished pack."""
    _remove(out, _STATE)


def remove_shards(out: Path) -> None:
    """And all that a failed one wrote."""
    _remove(out, (*_STATE, *_SHARDS))


def _remove(out: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)
