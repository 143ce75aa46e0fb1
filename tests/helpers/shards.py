"""Shards of plain pictures, in both layouts, and where their records are."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from facetrain.data.images.codec import encode_jpeg
from facetrain.data.shards.face_shard import FaceShardWriter
from facetrain.data.shards.recordio import RecordHeader, ShardWriter, pack_record


def picture(tone: int, size: int = 8) -> bytes:
    """A grey JPEG."""
    return encode_jpeg(np.full((size, size, 3), tone, np.uint8))


def write_shard(path: Path, labels: Iterable[int], contents: Sequence[bytes] | None = None) -> Path:
    """The header layout; pictures of tone 0, 10, 20, ... unless others are given."""
    with FaceShardWriter(path) as writer:
        for number, label in enumerate(labels):
            writer.write(int(label), contents[number] if contents else picture(10 * number))
    return path


def write_flat(
    path: Path, labels: Sequence[object] | Mapping[int, object], contents: Sequence[bytes] = ()
) -> Path:
    """The flat layout: a label, or several, by key; pictures as above."""
    by_key = labels if isinstance(labels, Mapping) else dict(enumerate(labels))
    with ShardWriter(path) as writer:
        for number, (key, label) in enumerate(by_key.items()):
            values = np.atleast_1d(np.array(label, np.float32))
            header = RecordHeader(len(values) if np.ndim(label) else 0, values, key, 0)
            content = contents[number] if contents else picture(10 * number)
            writer.write(key, pack_record(header, content))
    return path


def offsets(path: Path) -> dict[int, int]:
    """Key -> offset of each record, from the `.idx`."""
    lines = path.with_suffix(".idx").read_text().splitlines()
    return {int(key): int(at) for key, at in (line.split("\t") for line in lines)}


def damage_magic(path: Path, key: int) -> None:
    """Flip a bit of the first byte of a record."""
    content = bytearray(path.read_bytes())
    content[offsets(path)[key]] ^= 1
    path.write_bytes(content)


def damage_image(path: Path, key: int) -> None:
    """Overwrite the first bytes of a JPEG: its record is whole, and shows nothing."""
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8\xff", offsets(path)[key])
    content[start : start + 3] = bytes(3)
    path.write_bytes(content)


def recount(path: Path, num_images: int, num_classes: int, after: float) -> Path:
    """Let record 0 of a header layout claim that its images end before key `after`."""
    counts = np.array([num_images + 1, num_images + num_classes + 1], "<f4")
    content = path.read_bytes()
    assert content.count(counts.tobytes()) == 1
    claimed = np.array([after, counts[1]], "<f4")
    path.write_bytes(content.replace(counts.tobytes(), claimed.tobytes()))
    return path
