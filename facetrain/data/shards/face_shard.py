"""Writes a shard in InsightFace's header layout, which `arcface_torch` and MXNet read as it is.

Record 0 holds no image but labels [num_images + 1, num_images + num_identities + 1]; records
1..num_images are the images; each further record holds the key range [first, last + 1) of one
identity. InsightFace writes record 0 last, and so do we.
"""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import DataError
from facetrain.data.shards.record_table import FLOAT32_INTEGERS
from facetrain.data.shards.recordio import RecordHeader, ShardWriter, pack_record


class FaceShardWriter:
    """Writes images of one identity after another; nothing appears unless the block ends well.

    with FaceShardWriter(path) as writer:
        key = writer.write(label, encoded)
    """

    def __init__(self, path: Path) -> None:
        self._writer = ShardWriter(path)
        self._first_keys: list[int] = []
        self._label: float | None = None
        self.num_images = 0

    def __enter__(self) -> "FaceShardWriter":
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._writer.__exit__(*error)
            return
        with contextlib.ExitStack() as stack:
            stack.push(self._writer)
            self._write_ranges()

    def write(self, label: int | Sequence[float], encoded: bytes) -> int:
        """Append one image; return its key, 1 for the first.

        Args:
            label: the class, or several labels of which the first is the class.
            encoded: the image file's bytes.

        Raises:
            DataError: a class that is not an integer in [0, 2^24), or too many images: the
                layout holds both as float32.
        """
        labels = np.atleast_1d(np.asarray(label, np.float64))
        identity = float(labels[0])
        if not (0 <= identity < FLOAT32_INTEGERS and identity.is_integer()):
            raise DataError(f"a label must be an integer from 0 to 2^24 - 1, got {identity}")
        if identity != self._label:
            self._first_keys.append(self.num_images + 1)
            self._label = identity
        key = self.num_images + 1
        if key + len(self._first_keys) + 1 > FLOAT32_INTEGERS:
            raise DataError(
                f"{self._writer.path}: a shard holds at most {FLOAT32_INTEGERS} records, images "
                "and identities together; write more shards"
            )
        flag = 0 if np.ndim(label) == 0 else len(labels)
        header = RecordHeader(flag, labels.astype(np.float32), key, 0)
        self._writer.write(key, pack_record(header, encoded))
        self.num_images = key
        return key

    def _write_ranges(self) -> None:
        """Identity records, then record 0."""
        after = self.num_images + 1
        edges = [*self._first_keys, after]
        for key, (first, stop) in enumerate(itertools.pairwise(edges), after):
            self._write_range(key, first, stop, 0)
        self._write_range(0, after, after + len(self._first_keys), 1)

    def _write_range(self, key: int, first: int, stop: int, id2: int) -> None:
        header = RecordHeader(2, np.array([first, stop], np.float32), key, id2)
        self._writer.write(key, pack_record(header, b""))


def write_property(folder: Path, num_classes: int, size: int) -> None:
    """InsightFace's `property` file: "num_classes,height,width"."""
    with atomic_path(folder / "property") as temporary:
        temporary.write_text(f"{num_classes},{size},{size}\n", encoding="ascii")
