"""Damage of every kind: nothing is fewer, or other, without a word.

A shard of 14 images of 6 identities is spoiled in each way that disks and copies have. Opened and
decoded under on_corrupt=error it must either fail or be what it was; under "skip" what is left must
be right, and with what was skipped it must add up.
"""

import contextlib
import errno
import itertools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.shards import offsets, write_flat, write_shard

from facetrain.core.errors import DataError
from facetrain.data.batches.loader import OrderedLoader
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.inspection import inspect
from facetrain.data.shards.recordio import ShardReader

LABELS = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 5]
SIZE = 24
Images = list[tuple[str, int]]


def pictures() -> list[bytes]:
    """JPEGs of about 1 KB, each another."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 255, (len(LABELS), 4, 4, 3))
    return [encode_jpeg(np.kron(one, np.ones((6, 6, 1))).astype(np.uint8)) for one in coarse]


def write(path: Path, layout: str) -> list[int]:
    """Write the shard; return the offsets of its records."""
    (write_shard if layout == "header" else write_flat)(path, LABELS, pictures())
    return sorted(offsets(path).values())


def read(path: Path, on_corrupt: str) -> tuple[Images, int]:
    """Key and label of every image that decodes, and how many were skipped."""
    data = FaceDataset.open(path, on_corrupt=on_corrupt)  # type: ignore[arg-type]
    found, skipped = [], data.num_unreadable
    for index in range(data.num_images):
        try:
            data.decode(index, SIZE)
            found.append((data.key(index), int(data.class_ids[data.label[index]])))
        except DataError:
            if on_corrupt == "error":
                raise
            skipped += 1
    return found, skipped


def flips(content: bytes, offsets: list[int]) -> Iterator[bytes]:
    for offset in offsets:
        for bit in (0, 5, 12, 31, 32, 33, 35, 40, 45, 59, 61, 62, 63):  # of magic and length
            data = bytearray(content)
            data[offset + bit // 8] ^= 1 << bit % 8
            yield bytes(data)


def cuts(content: bytes, offsets: list[int]) -> Iterator[bytes]:
    places = [offset + more for offset in offsets for more in (0, 4, 8, 16, 36, 400)]
    for at in places:
        for length in (1, 4, 8, 512):
            yield content[:at] + content[at + length :]


def pages(content: bytes, offsets: list[int]) -> Iterator[bytes]:
    for size in (512, 4096):
        for at in range(0, len(content), 512):
            yield content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


def lost_records(content: bytes, offsets: list[int]) -> Iterator[bytes]:
    for start, stop in itertools.pairwise(offsets):
        yield content[:start] + content[stop:]


def truncated(content: bytes, offsets: list[int]) -> Iterator[bytes]:
    for offset in offsets[1:]:
        yield content[:offset]
        yield content[: offset + 30]


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("layout", ["header", "flat"])
@pytest.mark.parametrize("spoil", [flips, cuts, pages, lost_records, truncated])
def test_nothing_is_lost_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil, layout, with_index
) -> None:
    if not with_index and spoil is truncated:
        pytest.skip("cut between two records, without index and record 0, it is a shorter shard")
    if not with_index and layout == "flat" and spoil is lost_records:
        pytest.skip("nothing but the index tells of a record that a flat shard has lost")
    caplog.set_level(logging.ERROR, logger="facetrain")
    path = tmp_path / "a.rec"
    offsets = write(path, layout)
    if not with_index:
        path.with_suffix(".idx").unlink()
    content, (truth, none) = path.read_bytes(), read(path, "error")
    assert (len(truth), none) == (14, 0)
    # Zeros to the very end of a shard without index take what tells of the last records with them.
    adds_up = with_index or spoil is not pages
    count = skipping = 0
    for data in spoil(content, offsets):
        path.write_bytes(data)
        count += 1
        with contextlib.suppress(DataError):
            assert read(path, "error")[0] == truth
        with contextlib.suppress(DataError):  # nothing is left, or a label makes no sense
            found, skipped = read(path, "skip")
            skipping += 1
            assert set(found) <= set(truth)
            assert len(found) + skipped >= len(truth) or not adds_up
            assert len(found) >= 13 or spoil is not flips  # a bit of the framing costs one record
    assert skipping > count / 2 > 6


def test_inspect_lists_a_record_that_is_nowhere(tmp_path: Path) -> None:
    offsets = write(tmp_path / "a.rec", "header")
    content = (tmp_path / "a.rec").read_bytes()
    (tmp_path / "a.rec").write_bytes(content[: offsets[4]] + content[offsets[5] :])
    for _ in range(2):  # with the index, and by record 0
        result = inspect(tmp_path, show_progress=False)
        assert (result["num_images"], result["unreadable"]) == (13, [5])
        (tmp_path / "a.idx").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"record 5 at offset .* nowhere in the file"):
        FaceDataset.open(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("change", ["cut short", "replaced"])
def test_a_shard_that_changes_under_a_training_ends_it(
    tmp_path: Path, workers: int, change: str
) -> None:
    # By a map it would be SIGBUS; and it is no record that could be skipped.
    path = tmp_path / "a.rec"
    write(path, "flat")
    data = FaceDataset.open(path)
    if change == "cut short":
        os.truncate(path, 3000)
        said = "must not change while it is read; it had .* has 3000; restore it"
    else:
        shutil.copy(path, tmp_path / "new")
        os.replace(tmp_path / "new", path)
        said = "was replaced by another file"
    loader = OrderedLoader(data, SIZE, 4, 0, 14, workers=workers, on_corrupt="skip")
    with pytest.raises(DataError, match=said):
        list(loader)


def test_a_shard_that_cannot_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.rec"
    write(path, "flat")
    data = FaceDataset.open(path)

    def fail(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DataError, match=r"a\.rec: must be a readable .rec file, but Input/output"):
        data.encoded(0)
    monkeypatch.undo()
    (tmp_path / "folder.rec").mkdir()
    with pytest.raises(DataError, match=r"folder\.rec: must be a .rec file, but is none"):
        ShardReader(tmp_path / "folder.rec")


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="no holes that one could ask for")
def test_a_shard_that_was_never_written_to_its_end_says_so(tmp_path: Path) -> None:
    """Not scanned: a terabyte of nothing would be."""
    write(tmp_path / "a.rec", "flat")
    os.truncate(tmp_path / "a.rec", 1 << 40)
    with pytest.raises(DataError, match=r"a\.rec: must be a readable .* MiB from byte \d+ on were"):
        ShardReader(tmp_path / "a.rec")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_index_that_cannot_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """And not that it must be writable; nor is it none: it may tell of records that are lost."""
    write(tmp_path / "a.rec", "flat")
    (tmp_path / "a.idx").write_text("0\t0\n")

    def closed(self: Path, *_: object) -> str:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "read_text", closed)
    with pytest.raises(DataError, match=r"a\.idx: must be a readable index .*; make it"):
        ShardReader(tmp_path / "a.rec")


@pytest.mark.slow
def test_many_shards_need_few_descriptors(tmp_path: Path) -> None:
    write(tmp_path / "train-000.rec", "header")
    for number in range(1, 120):
        write_flat(tmp_path / f"train-{number:03d}.rec", {number: 5 + number}, pictures())
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))\n"
        "from facetrain.data.dataset import FaceDataset\n"
        "from facetrain.data.batches.loader import OrderedLoader\n"
        "data = FaceDataset.open(Path(sys.argv[1]))\n"
        "batches = list(OrderedLoader(data, 24, 16, 0, data.num_images, workers=2))\n"
        "print(sum(int((batch.label == 0).sum()) for batch in batches))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "133\n", done.stderr


@pytest.mark.parametrize("layout", ["header", "flat"])
@pytest.mark.parametrize("key", [4, 13])
def test_a_damaged_key_in_an_idx_changes_nothing(tmp_path: Path, layout: str, key: int) -> None:
    """The record's own id says what it was; an `.idx` that renumbers them all is obeyed."""
    path = tmp_path / "a.rec"
    write(path, layout)
    whole = read(path, "error")
    index = path.with_suffix(".idx")
    lines = index.read_text().splitlines()
    damaged = [f"9{line}" if line.startswith(f"{key}\t") else line for line in lines]
    assert damaged != lines
    index.write_text("\n".join(damaged) + "\n")
    assert read(path, "error") == whole
    index.write_text("".join(f"{int(n) + 100}\t{o}\n" for n, o in map(str.split, lines)))
    if layout == "flat":
        assert ShardReader(path).keys.tolist() == list(range(100, 114))
