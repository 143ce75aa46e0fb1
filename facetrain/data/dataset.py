"""A face data set: shards in either InsightFace layout, with label overlays applied.

Layout "header" (InsightFace RecBuilder): record 0 is empty and tells how many images follow it;
identity records come after. Layout "flat" (im2rec, shuffled copies): every record is an image.
Classes come from the image records. The identity ranges are float32, wrong beyond 2^24, and one
identity may have several; they are not read.

Several sets are joined side by side: their rows follow each other, and the labels of each begin
after those of the one before, so no two sets share an identity.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PlainSerializer

from facetrain.core.artifact import fingerprint
from facetrain.core.config import Config, Paths
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.images.codec import decode_image, decode_with_warnings, fit_square
from facetrain.data.overlay import LabelOverlay, overlay_file
from facetrain.data.shards.record_table import IR_HEADER
from facetrain.data.shards.shard_set import OnCorrupt, ShardImages, ShardSet, digest


def _as_sets(value: Any) -> Any:
    """One path means a list of one."""
    if isinstance(value, str | Path):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _as_given(path: tuple[Path, ...]) -> Any:
    """One path is written as it was given, so that a recipe's digest does not change."""
    return str(path[0]) if len(path) == 1 else [str(one) for one in path]


SetPaths = Annotated[
    tuple[Path, ...],
    BeforeValidator(_as_sets, json_schema_input_type=str | list[str]),
    PlainSerializer(_as_given, when_used="json"),
    Field(min_length=1),
]


class DataConfig(Config):
    """Which images train: shards, overlays, and how they are read."""

    path: SetPaths
    """A `.rec` file or a folder of shards; or several in a list, joined side by side."""
    overlay: Paths = ()
    """Label overlays, applied in order."""
    workers: int = Field(2, ge=0, le=256)
    """Decoding processes of each rank; 0 decodes in the training process."""
    on_corrupt: OnCorrupt = "error"
    """A record that cannot be read stops the run, or is skipped and counted."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that must be there to open the set."""
        return (*self.path, *self.overlay)

    @property
    def where(self) -> str:
        """The sets, for messages."""
        return " + ".join(map(str, self.path))

    @property
    def folder(self) -> Path:
        """The first set's folder, where files beside the shards are."""
        return self.path[0] if self.path[0].is_dir() else self.path[0].parent


class FaceDataset:
    """Images and dense labels. Rows number all images of the shards; images those in use."""

    label: NDArray[np.int64]  # (num_images,) 0..num_classes-1, every class present
    class_ids: NDArray[np.int64]  # (num_classes,) the label each class has in shards or overlay
    row: NDArray[np.int64]  # (num_images,) among all num_rows images; overlay arrays index by it
    base_label: NDArray[np.int64]  # (num_rows,) in the shards, offset by set; -1 if unreadable
    num_rows: int
    num_unreadable: int  # rows dropped at open, on_corrupt="skip"
    layout: str  # "header", "flat", or "mixed" over several shards
    base_fingerprint: str  # of the shards: what an overlay of this data set carries
    fingerprint: str  # of shards and overlays
    _where: str  # the sets, for messages
    _sets: list[ShardSet]
    _offsets: list[int]  # added to the labels of each set
    _shards: list[ShardImages]
    _first_row: NDArray[np.int64]  # (number of shards + 1,)

    @classmethod
    def open(
        cls,
        path: Path | Sequence[Path],
        overlay: Sequence[Path] = (),
        on_corrupt: OnCorrupt = "error",
    ) -> "FaceDataset":
        """Open a `.rec` file, a folder of shards, or several of these side by side.

        Reads the header of every record, no image. Records whose header cannot be read have no
        label: they are an error, or are left out and counted.

        Raises:
            DataError: no shards, or of several sets in one folder; a set given twice; a damaged
                record under "error"; a label that is not an integer from 0 up and below 2^24; an
                overlay of another data set; no image left.
        """
        data = cls()
        paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
        data._sets = [ShardSet(one, on_corrupt) for one in paths]
        where = " + ".join(map(str, paths))
        prints = [one.fingerprint for one in data._sets]
        if len(set(prints)) < len(prints):
            raise DataError(f"{where}: must be different data sets, but one is there twice")
        sizes = [one.num_labels for one in data._sets[:-1]]
        data._offsets = np.cumsum([0, *sizes]).tolist()
        data._shards = [shard for one in data._sets for shard in one.shards]
        layouts = {one.layout for one in data._sets}
        data.layout = layouts.pop() if len(layouts) == 1 else "mixed"
        counts = [len(shard.positions) for shard in data._shards]
        data._first_row = np.cumsum([0, *counts], dtype=np.int64)
        data.num_rows = int(data._first_row[-1])
        data.base_label = np.concatenate(
            [
                np.where(one.label >= 0, one.label + offset, -1)
                for one, offset in zip(data._sets, data._offsets, strict=True)
            ]
        )
        data.num_unreadable = int((data.base_label < 0).sum())
        if data.num_unreadable:
            logger.warning("%s: left out %d damaged records", where, data.num_unreadable)
        data.base_fingerprint = prints[0] if len(prints) == 1 else digest(["joined", *prints])
        data._where = where
        return data.with_overlay(overlay)

    def with_overlay(self, overlay: Sequence[Path]) -> "FaceDataset":
        """The same shards under other overlays, in place of this set's; nothing is read again.

        Raises:
            DataError: an overlay of another data set; no image left.
        """
        data = copy.copy(self)
        data.fingerprint = data.base_fingerprint
        if overlay:
            hashes = [fingerprint(overlay_file(Path(one))) for one in overlay]
            data.fingerprint = digest([data.base_fingerprint, *hashes])
        label, kept = data.base_label, np.ones(data.num_rows, np.bool_)
        for one in overlay:
            label, kept = data._load_overlay(Path(one)).apply(label, kept, data.base_label)
        data.row = np.flatnonzero(kept & (data.base_label >= 0))
        if len(data.row) == 0:
            raise DataError(f"{data._where}: must leave images to use, got none of {data.num_rows}")
        data.class_ids, dense = np.unique(label[data.row], return_inverse=True)
        data.label = dense.astype(np.int64)
        return data

    def _load_overlay(self, path: Path) -> LabelOverlay:
        overlay = LabelOverlay.load(path, self.num_rows)
        if overlay.dataset_fingerprint not in ("", self.base_fingerprint):
            raise DataError(
                f"{path}: belongs to data set {overlay.dataset_fingerprint[:12]}, but this one is "
                f"{self.base_fingerprint[:12]}; give the shards it was made for"
            )
        return overlay

    @property
    def num_images(self) -> int:
        """Images in use: kept by the overlays, with a readable header."""
        return len(self.label)

    @property
    def num_classes(self) -> int:
        """Identities in use."""
        return len(self.class_ids)

    def names_of(self, class_ids: NDArray[np.int64]) -> list[str]:
        """What identities are called, by label as in `class_ids`; "" where nobody named one.

        Raises:
            DataError: the `classes.json` of a set is damaged.
        """
        found: dict[int, str] = {}
        for one, offset in zip(self._sets, self._offsets, strict=True):
            found |= {offset + label: name for label, name in one.names.items()}
        return [found.get(label, "") for label in class_ids.tolist()]

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the num_classes identities is called; "" where nobody named it."""
        return tuple(self.names_of(self.class_ids))

    def _locate(self, row: int) -> tuple[ShardImages, int]:
        """The shard of a row, and the row's number among its images."""
        shard = int(np.searchsorted(self._first_row, row, side="right")) - 1
        return self._shards[shard], row - int(self._first_row[shard])

    def row_key(self, row: int) -> str:
        """Shard and record key of a row, for messages and lists."""
        one, number = self._locate(row)
        path = one.shard.path
        name = path.name if len(self._sets) == 1 else str(path)
        return f"{name}:{one.shard.keys[one.positions[number]]}"

    def row_folder(self, row: int) -> Path:
        """The folder in which the shard of a row lies."""
        return self._locate(row)[0].shard.path.parent

    def row_source(self, row: int) -> str | None:
        """What the image of a row was called before it was packed, or None."""
        one, number = self._locate(row)
        return one.sources.name(int(one.shard.keys[one.positions[number]]), number)

    def row_encoded(self, row: int) -> bytes:
        """The image file's bytes of a row.

        Raises:
            DataError: naming shard, key and offset of a damaged record.
        """
        one, number = self._locate(row)
        payload = one.shard.read_at(int(one.positions[number]))
        if len(payload) < IR_HEADER.size:
            raise DataError(f"record {self.row_key(row)}: must have a header, but is too short")
        return payload[IR_HEADER.size + 4 * IR_HEADER.unpack_from(payload)[0] :]

    def key(self, index: int) -> str:
        """Shard and record key of an image, for messages."""
        return self.row_key(int(self.row[index]))

    def source(self, index: int) -> str | None:
        """What an image was called before it was packed, or None: from the shard's `.lst`."""
        return self.row_source(int(self.row[index]))

    def encoded(self, index: int) -> bytes:
        """The image file's bytes.

        Raises:
            DataError: naming shard, key and offset of a damaged record.
        """
        return self.row_encoded(int(self.row[index]))

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB; the centre square of other shapes, resized.

        Raises:
            DataError: naming shard and key of an image that does not decode.
        """
        encoded = self.encoded(index)
        try:
            image, warnings = decode_with_warnings(encoded, "image")
        except DataError:
            warnings = "it does not decode"
        if warnings:  # again, with its name, which costs 3 % if it is made up for every image
            image = decode_image(encoded, f"record {self.key(index)}")
        return fit_square(image, size)
