"""A face data set: shards in either InsightFace layout, with label overlays applied.

Layout "header" (InsightFace RecBuilder): record 0 is empty and tells how many images follow it;
identity records come after. Layout "flat" (im2rec, shuffled copies): every record is an image.
Classes come from the image records. The identity ranges are float32, wrong beyond 2^24, and one
identity may have several; they are not read.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facetrain.core.artifact import fingerprint
from facetrain.core.config import Config, Paths
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.images import decode_image, fit_square
from facetrain.data.overlay import LabelOverlay, overlay_file
from facetrain.data.record_table import IR_HEADER, RecordTable
from facetrain.data.recordio import ShardReader, shard_paths, unpack_record

_FLOAT32_INTEGERS = 1 << 24
OnCorrupt = Literal["error", "skip"]


class DataConfig(Config):
    """Which images train: shards, overlays, and how they are read."""

    path: Path
    """A `.rec` file or a folder of shards."""
    overlay: Paths = ()
    """Label overlays, applied in order."""
    workers: int = Field(2, ge=0)
    """Decoding processes of each rank; 0 decodes in the training process."""
    on_corrupt: OnCorrupt = "error"
    """A record that cannot be read stops the run, or is skipped and counted."""


class FaceDataset:
    """Images and dense labels. Rows number all images of the shards; images those in use."""

    label: NDArray[np.int64]  # (num_images,) 0..num_classes-1, every class present
    class_ids: NDArray[np.int64]  # (num_classes,) the label each class has in shards or overlay
    row: NDArray[np.int64]  # (num_images,) among all num_rows images; overlay arrays index by it
    num_rows: int
    num_unreadable: int  # rows dropped at open, on_corrupt="skip"
    layout: str  # "header", "flat", or "mixed" over several shards
    base_fingerprint: str  # of the shards: what an overlay of this data set carries
    fingerprint: str  # of shards and overlays
    _shards: list[ShardReader]
    _positions: list[NDArray[np.int64]]  # of the image records in each shard
    _first_row: NDArray[np.int64]  # (number of shards + 1,)

    @classmethod
    def open(
        cls, path: Path, overlay: Sequence[Path] = (), on_corrupt: OnCorrupt = "error"
    ) -> "FaceDataset":
        """Open a `.rec` file or a folder of shards.

        Reads the header of every record, no image. Records whose header cannot be read have no
        label: they are an error, or are left out and counted.

        Raises:
            DataError: no shards; a damaged record under "error"; a label that is not an integer
                from 0 up; an overlay of another data set; no image left.
        """
        data = cls()
        data._shards = [ShardReader(shard) for shard in shard_paths(Path(path))]
        labels, readable, layouts = [], [], set()
        data._positions = []
        for shard in data._shards:
            table = shard.table()
            layout, positions = image_positions(shard, table)
            layouts.add(layout)
            data._positions.append(positions)
            whole = table.readable[positions]
            if not whole.all() and on_corrupt == "error":
                raise _damage(shard, int(positions[np.flatnonzero(~whole)[0]]))
            readable.append(whole)
            labels.append(_labels(shard, table, positions, whole))
        data.layout = layouts.pop() if len(layouts) == 1 else "mixed"
        data._first_row = np.cumsum([0, *map(len, data._positions)], dtype=np.int64)
        data.num_rows = int(data._first_row[-1])
        base_label, whole = np.concatenate(labels), np.concatenate(readable)
        data.num_unreadable = int((~whole).sum())
        if data.num_unreadable:
            logger.warning("%s: left out %d damaged records", path, data.num_unreadable)
        data.base_fingerprint = _digest([fingerprint(shard.path) for shard in data._shards])
        data.fingerprint = data.base_fingerprint
        if overlay:
            hashes = [fingerprint(overlay_file(Path(one))) for one in overlay]
            data.fingerprint = _digest([data.base_fingerprint, *hashes])
        label, kept = base_label, np.ones(data.num_rows, np.bool_)
        for one in overlay:
            label, kept = data._load_overlay(Path(one)).apply(label, kept, base_label)
        data.row = np.flatnonzero(kept & whole)
        if len(data.row) == 0:
            raise DataError(f"{path}: must leave images to use, got none of {data.num_rows}")
        data.class_ids, dense = np.unique(label[data.row], return_inverse=True)
        data.label = dense.astype(np.int64)
        return data

    def _load_overlay(self, path: Path) -> LabelOverlay:
        overlay = LabelOverlay.load(path)
        if len(overlay.label) != self.num_rows:
            raise DataError(
                f"{path}: must cover the {self.num_rows} images of the data set, but has "
                f"{len(overlay.label)} rows; it belongs to another one"
            )
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

    def _locate(self, index: int) -> tuple[ShardReader, int]:
        row = int(self.row[index])
        shard = int(np.searchsorted(self._first_row, row, side="right")) - 1
        return self._shards[shard], int(self._positions[shard][row - self._first_row[shard]])

    def key(self, index: int) -> str:
        """Shard name and record key of an image, for messages."""
        shard, position = self._locate(index)
        return f"{shard.path.name}:{shard.keys[position]}"

    def encoded(self, index: int) -> bytes:
        """The image file's bytes.

        Raises:
            DataError: naming shard, key and offset of a damaged record.
        """
        shard, position = self._locate(index)
        payload = shard.read_at(position)
        return payload[IR_HEADER.size + 4 * IR_HEADER.unpack_from(payload)[0] :]

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB; the centre square of other shapes, resized.

        Raises:
            DataError: naming shard and key of an image that does not decode.
        """
        image = decode_image(self.encoded(index), f"record {self.key(index)}")
        return fit_square(image, size)


def image_positions(shard: ShardReader, table: RecordTable) -> tuple[str, NDArray[np.int64]]:
    """Layout of a shard, and the positions of its image records in key order.

    A flat shard whose first image has several labels also has flag > 0 in record 0; only a
    header record is empty besides. Its count is believed below 2^24, as InsightFace does; above,
    images are the records with content.
    """
    keys = shard.keys
    everything = np.arange(len(keys))
    if keys[0] != 0 or not table.framed[0]:
        # Without record 0 (cut off with the end of the file, say) only the empty records tell.
        ranges = (table.flag == 2) & (table.content_length == 0)
        return ("header" if ranges.any() else "flat"), everything[~ranges]
    if table.flag[0] == 0 or table.content_length[0] != 0:
        return "flat", everything
    after = float(table.label[0])
    if after < _FLOAT32_INTEGERS and after.is_integer() and 1 <= after <= keys[-1] + 1:
        return "header", everything[1 : int(np.searchsorted(keys, int(after)))]
    return "header", np.flatnonzero(table.content_length != 0)


def _labels(
    shard: ShardReader,
    table: RecordTable,
    positions: NDArray[np.int64],
    whole: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Classes of the images, -1 for unreadable ones."""
    label = table.label[positions]
    wrong = np.flatnonzero(whole & ~valid_labels(label))
    if len(wrong):
        raise DataError(
            f"{shard.path}: record {shard.keys[positions[wrong[0]]]} must have an integer label "
            f"from 0 up, got {label[wrong[0]]} ({len(wrong)} such records); pack the data again"
        )
    return np.where(whole, label, np.float32(-1)).astype(np.int64)


def valid_labels(label: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each label is an integer from 0 up, as a class must be; NaN is none."""
    valid: NDArray[np.bool_] = (label >= 0) & (label < 2**31) & (label == np.trunc(label))
    return valid


def _damage(shard: ShardReader, position: int) -> DataError:
    """What is wrong with a record whose table row is not readable."""
    try:
        unpack_record(shard.read_at(position))
    except DataError as error:
        text = str(error)
        return (
            error
            if text.startswith(str(shard.path))
            else DataError(f"{shard.path}: record {shard.keys[position]}: {text}")
        )
    raise AssertionError("the table and the reader disagree")


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(";".join(parts).encode()).hexdigest()
