"""The files that were packed, in place of the images in the shards: found, and looked at.

An original lies outside the set and may have been damaged, before it was packed or since. What does
not decode is no image of a set. What decodes although it seems damaged, or is not what was packed,
is named: only its owner knows which of the two is right.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from facetrain.core.artifact import read_artifact
from facetrain.core.errors import DataError
from facetrain.core.text import printable
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.codec import Image, decode_image, fit_square
from facetrain.data.images.suspect import decode_checked
from facetrain.data.images.workers import ordered_map
from facetrain.data.packing.pack_image import passes_through
from facetrain.data.sources.image import SourceImage, state_digest

_CHUNK = 32  # files a task
_FILES_PER_WORKER = 512  # fewer do not repay a process's start
_GRID = 4  # cells a side
_FAR = 32  # of 255, on average over a cell: JPEG at quality 10 stays below


class Original(NamedTuple):
    """The file of one row, and what was found of it."""

    row: int
    path: Path
    refused: str | None
    """Why it is no image."""
    suspect: str | None
    """Why it may be damaged, or is not what was packed."""


class _Task(NamedTuple):
    path: str
    packed: bytes | None  # the record, where the whole image was packed


class Originals:
    """The files below a folder that rows of a data set were packed from."""

    def __init__(self, folder: Path, dataset: FaceDataset) -> None:
        self.folder, self.dataset = folder, dataset
        self._whole: dict[Path, bool] = {}

    def find(self, row: int) -> Path:
        """The file that a row was packed from.

        Raises:
            DataError: it is not listed, or not there, or would lie elsewhere.
        """
        source = self.dataset.row_source(row)
        if source is None:
            raise DataError(
                f"record {self.dataset.row_key(row)}: must be in the .lst of its shard for "
                "--originals, but is not; write the images of the shards: leave the option out"
            )
        path = PurePosixPath(source)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{printable(source)}: must be a path below --originals, as `pack` lists it"
            )
        original = self.folder / path
        further = self.folder / re.sub(r"#\d+$", "", source)  # of several faces in one photograph
        if not original.is_file() and further.is_file():
            return further
        if not original.is_file():
            raise DataError(
                f"{printable(original)}: must be the file that was packed, but there is none; give "
                "the folder that `pack` was given as --originals, or leave the option out"
            )
        return original

    def state(self, rows: Sequence[int]) -> str:
        """Changes when a file of these rows does: by names, sizes and times of change."""
        paths = ((row, str(self.find(row))) for row in rows)
        return state_digest(SourceImage(str(row), (), path) for row, path in paths)

    def look_at(self, rows: Sequence[int]) -> Iterator[Original]:
        """Each row's file, decoded and compared with its record, in order.

        Compared are images that `pack` stored whole, as its manifest says. Of aligned faces it is
        not known here what they were cut from.

        Raises:
            DataError: as `find` does.
            UserError: a file is closed to this user.
        """
        chunks = (rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK))
        tasks = ([self._task(row) for row in chunk] for chunk in chunks)
        workers = max(1, min(os.cpu_count() or 1, len(rows) // _FILES_PER_WORKER))
        found = (one for part in ordered_map(_look_at_chunk, tasks, workers) for one in part)
        for row, (path, refused, suspect) in zip(rows, found, strict=True):
            yield Original(row, Path(path), refused, suspect)

    def _task(self, row: int) -> _Task:
        path, packed = self.find(row), None
        if self._packed_whole(self.dataset.row_folder(row)):
            try:
                packed = self.dataset.row_encoded(row)
            except DataError:  # a damaged record says nothing of its original
                packed = None
        return _Task(str(path), packed)

    def _packed_whole(self, folder: Path) -> bool:
        """Whether `pack` made these shards without aligning faces."""
        if folder not in self._whole:
            artifact = read_artifact(folder)
            self._whole[folder] = artifact is not None and (
                artifact.manifest["stage"] == "pack"
                and not {"landmarks", "detector"} & set(artifact.manifest["inputs"])
            )
        return self._whole[folder]


_Found = tuple[str, str | None, str | None]


def _look_at_chunk(tasks: Sequence[_Task]) -> list[_Found]:
    """(path, why it is refused, why it is suspect) of each."""
    found: list[_Found] = []
    for path, packed in tasks:
        try:
            encoded = SourceImage(path, (), path).read()
            image, suspect = decode_checked(encoded, "it")
            if suspect is None and packed is not None and encoded != packed:
                suspect = _difference(image, encoded, packed)
            found.append((path, None, suspect))
        except DataError as error:
            found.append((path, str(error), None))
    return found


def _difference(image: Image, encoded: bytes, packed: bytes) -> str | None:
    """How an image differs from the one that was packed of it, other than by JPEG's losses."""
    try:
        was = decode_image(packed, "the record")
    except DataError:
        return None
    size = len(was)
    if passes_through(image, encoded, size):
        return "is not the file that was packed: its bytes differ"
    apart = np.abs(fit_square(image, size).astype(np.int16) - was).mean(axis=2)  # (size, size)
    rows = np.array_split(apart, _GRID)
    most = max(float(cell.mean()) for row in rows for cell in np.array_split(row, _GRID, axis=1))
    if most <= _FAR:
        return None
    return f"is not the image that was packed: {most:.0f} of 255 apart in a part of it"
