"""The shards of one data set: their images in row order, the labels they share, and their names.

A data set is one `.rec` or a folder of them. The shards of a folder number their identities in
common; two data sets in one folder would make one person of identity 5 of the one and identity 5
of the other, so what is not seen to be one set is refused.
"""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import fingerprint, read_json
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.plain_file import read_plain
from facetrain.core.run_folder import CLASSES_FILE
from facetrain.data.shards.record_table import FLOAT32_INTEGERS, RecordTable
from facetrain.data.shards.recordio import ShardReader, shard_paths, unpack_record
from facetrain.data.shards.shard_list import ShardList

OnCorrupt = Literal["error", "skip"]


@dataclasses.dataclass(frozen=True)
class ShardImages:
    """One shard, its layout, and its images: the positions of their records, their labels."""

    shard: ShardReader
    layout: str  # "header" or "flat"
    positions: NDArray[np.int64]  # (N,) of the image records, in key order
    label: NDArray[np.int64]  # (N,) -1 where the record cannot be read
    id: NDArray[np.uint64]  # (N,)

    @functools.cached_property
    def sources(self) -> ShardList:
        """What the images were called before they were packed."""
        return ShardList(self.shard.path.with_suffix(".lst"))


class ShardSet:
    """The shards at a path, opened; headers are read, images are not."""

    def __init__(self, path: Path, on_corrupt: OnCorrupt = "error") -> None:
        """Open a `.rec` file or a folder of shards.

        Raises:
            DataError: no shards, or of several data sets; a damaged record under "error"; a label
                that no class can have.
        """
        self.path = path
        self.shards = [_open(shard, on_corrupt) for shard in shard_paths(path)]
        check_one_set(path, self.shards)
        self.label = np.concatenate([one.label for one in self.shards])
        layouts = {one.layout for one in self.shards}
        self.layout = layouts.pop() if len(layouts) == 1 else "mixed"

    @property
    def folder(self) -> Path:
        """Where the shards are, and what was written beside them."""
        return self.path if self.path.is_dir() else self.path.parent

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the content of the shards, not with their names."""
        return digest([fingerprint(one.shard.path) for one in self.shards])

    @functools.cached_property
    def names(self) -> dict[int, str]:
        """Label -> what the identity is called, from the `classes.json` of `pack`; else empty.

        Raises:
            DataError: the file is damaged.
        """
        file = self.folder / CLASSES_FILE
        if not file.is_file():
            return {}
        found = read_json(file)
        if not isinstance(found, dict) or not all(
            label.isascii() and label.isdigit() and isinstance(name, str)
            for label, name in found.items()
        ):
            raise DataError(f"{file}: must be JSON, label -> name of the identity")
        return {int(label): name for label, name in found.items()}

    @functools.cached_property
    def num_labels(self) -> int:
        """One more than the largest label, also of images that cannot be read, where it is known.

        The `property` file and the names are asked as well, so that damage to the last identity
        does not change it.
        """
        known = [int(self.label.max(initial=-1)) + 1, max(self.names, default=-1) + 1]
        try:
            text = read_plain(self.folder / "property").decode("ascii")
            known.append(int(text.split(",")[0]))
        except (OSError, ValueError):
            pass
        return max(one for one in known if one < FLOAT32_INTEGERS)


def image_positions(shard: ShardReader, table: RecordTable) -> tuple[str, NDArray[np.int64]]:
    """Layout of a shard, and the positions of its image records in key order.

    A flat shard whose first image has several labels also has flag > 0 in record 0; only a
    header record is empty besides. Its count is trusted below 2^24, as InsightFace does, unless
    records from there on hold images; else images are the records with content.
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
    if after < FLOAT32_INTEGERS and after.is_integer() and 1 <= after <= keys[-1] + 1:
        end = int(np.searchsorted(keys, int(after)))
        uncounted = int((table.content_length[end:] > 0).sum())
        if uncounted == 0:
            return "header", everything[1:end]
        logger.warning(
            "%s: record 0 counts %d images, but %d more follow: all are taken",
            *(shard.path, int(after) - 1, uncounted),
        )
    return "header", np.flatnonzero(table.content_length != 0)


def valid_labels(label: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each label is an integer from 0 up, as a class must be; NaN is none."""
    valid: NDArray[np.bool_] = (label >= 0) & (label < 2**31) & (label == np.trunc(label))
    return valid


def merged_labels(label: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each is from 2^24 up, where float32 gives neighbouring identities one number."""
    merged: NDArray[np.bool_] = valid_labels(label) & (label >= FLOAT32_INTEGERS)
    return merged


def digest(parts: Sequence[str]) -> str:
    """SHA-256 (hex) of several texts."""
    return hashlib.sha256(";".join(parts).encode()).hexdigest()


def open_shard(path: Path) -> tuple[ShardImages, RecordTable]:
    """A shard as it is, damage and all, and its records; a label that is none counts as -1.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    shard = ShardReader(path)
    table = shard.table()
    layout, positions = image_positions(shard, table)
    label = table.label[positions]
    known = table.readable[positions] & valid_labels(label)
    exact = np.where(known, label, np.float32(-1)).astype(np.int64)
    return ShardImages(shard, layout, positions, exact, table.id[positions]), table


def _open(path: Path, on_corrupt: OnCorrupt) -> ShardImages:
    images, table = open_shard(path)
    shard, positions = images.shard, images.positions
    whole = table.readable[positions]
    if not whole.all() and on_corrupt == "error":
        raise _damage(shard, int(positions[np.flatnonzero(~whole)[0]]))
    label = table.label[positions]
    keys = shard.keys[positions]
    wrong = np.flatnonzero(whole & ~valid_labels(label))
    if len(wrong):
        raise DataError(
            f"{path}: record {keys[wrong[0]]} must have an integer label from 0 up, got "
            f"{label[wrong[0]]} ({len(wrong)} such records); pack the data again"
        )
    merged = np.flatnonzero(whole & merged_labels(label))
    if len(merged):
        raise DataError(
            f"{path}: labels must be below 2^24 (16777216), where float32 still has every "
            f"integer, but {len(merged)} are not, record {keys[merged[0]]} first with "
            f"{int(label[merged[0]])}: different people may have become one; number the "
            "identities from 0 without gaps in their list, and pack it again"
        )
    return images


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


def check_one_set(folder: Path, shards: list[ShardImages]) -> None:
    """Refuse shards that do not show that they number their identities in common.

    They do when an identity is in two of them only where one ends and the next begins, as `pack`
    leaves it; or when their names differ by numbers alone and no record id is used twice, as
    im2rec's chunks.

    Raises:
        DataError: naming two that share labels, and how to give two data sets.
    """
    if len(shards) == 1:
        return
    # Labels that several shards have must be those where one shard ends and the next begins.
    present = [one.label[one.label >= 0] for one in shards]
    distinct = [np.unique(label) for label in present]
    label, count = np.unique(np.concatenate(distinct), return_counts=True)
    common = label[count > 1]
    stems = {re.sub(r"\d+", "0", one.shard.path.stem) for one in shards}
    alike = len(stems) == 1
    around = [label for label in present if len(label)]
    borders = [int(a[-1]) for a, b in itertools.pairwise(around) if a[-1] == b[0]]
    if len(common) <= len(borders) and all(
        borders.count(one) == holders - 1 and (one > 0 or alike)
        for one, holders in zip(common.tolist(), count[count > 1].tolist(), strict=True)
    ):
        return
    # Chunks of one shuffled set share labels, but no record.
    ids = np.concatenate([one.id for one in shards])
    if alike and len(np.unique(ids)) == len(ids):
        return
    holders = [
        one.shard.path for one, own in zip(shards, distinct, strict=True) if common[0] in own
    ]
    raise DataError(
        f"{folder}: must hold the shards of one data set, but {holders[0].name} and "
        f"{holders[1].name} share labels ({len(common)} in all, {common[0]} first), and nothing "
        "shows that they mean the same people; give two data sets side by side, "
        f"data.path=[{holders[0]}, {holders[1]}]; shards of one set are named NAME-0.rec, "
        "NAME-1.rec, ... and number their records without repetition"
    )
