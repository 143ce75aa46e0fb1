"""Records against files that MXNet wrote, and against the format's own description."""

import contextlib
import errno
import hashlib
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.shards import offsets, write_flat

from facetrain.core.errors import DataError, OutputError
from facetrain.data.shards import recordio
from facetrain.data.shards.recordio import (
    RecordHeader,
    ShardReader,
    ShardWriter,
    pack_record,
    unpack_record,
)

GOLDEN = Path(__file__).parents[3] / "golden"
EXPECTED = json.loads((GOLDEN / "golden.json").read_text())
RECORD_FILES = ["header", "flat_vector", "multipart", "large_ids"]
MAGIC = struct.pack("<I", 0xCED7230A)


def image_payload(key: int, label: float, size: int) -> bytes:
    header = RecordHeader(0, np.array([label], np.float32), key, 0)
    return pack_record(header, bytes([key % 251]) * size)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Ten records, keys 0..9, of different lengths."""
    path = tmp_path / "ten.rec"
    with ShardWriter(path) as writer:
        for key in range(10):
            writer.write(key, image_payload(key, key // 2, 50 + 7 * key))
    return path


@pytest.mark.parametrize("name", RECORD_FILES)
def test_reads_what_mxnet_wrote(name: str) -> None:
    reader = ShardReader(GOLDEN / f"{name}.rec")
    assert not reader.index_rebuilt
    got = {str(k): hashlib.sha256(reader.read(k)).hexdigest() for k in reader.keys.tolist()}
    assert got == EXPECTED[name]


@pytest.mark.parametrize("name", RECORD_FILES)
def test_writes_the_bytes_mxnet_writes(name: str, tmp_path: Path) -> None:
    index = (GOLDEN / f"{name}.idx").read_text()
    reader = ShardReader(GOLDEN / f"{name}.rec")
    with ShardWriter(tmp_path / "again.rec") as writer:
        for line in index.splitlines():  # in MXNet's order of writing
            key = int(line.split("\t")[0])
            writer.write(key, reader.read(key))
    assert (tmp_path / "again.rec").read_bytes() == (GOLDEN / f"{name}.rec").read_bytes()
    assert (tmp_path / "again.idx").read_text() == index


def test_embedded_magic_is_cut_only_where_aligned(tmp_path: Path) -> None:
    # By hand: payload = magic | 1 byte | magic | 3 bytes. The first magic is at 0 (aligned: cut,
    # dropped), the second at 5 (not aligned: stays). Parts: "" and 1 + 4 + 3 = 8 bytes.
    payload = MAGIC + b"a" + MAGIC + b"bcd"
    with ShardWriter(tmp_path / "one.rec") as writer:
        writer.write(5, payload)
    first, last = 1 << 29 | 0, 3 << 29 | 8
    framed = MAGIC + struct.pack("<I", first) + MAGIC + struct.pack("<I", last) + payload[4:]
    assert (tmp_path / "one.rec").read_bytes() == framed
    assert ShardReader(tmp_path / "one.rec").read(5) == payload


def test_table_agrees_with_unpacking_each_record() -> None:
    for name in RECORD_FILES:
        reader = ShardReader(GOLDEN / f"{name}.rec")
        table = reader.table()
        for i, key in enumerate(reader.keys.tolist()):
            payload = reader.read(key)
            if len(payload) < 24 or not table.readable[i]:
                assert name == "multipart"  # no image headers there
                continue
            if name == "multipart":
                continue
            header, content = unpack_record(payload)
            assert table.flag[i] == header.flag
            assert table.label[i] == header.label[0]
            assert table.id[i] == header.id == key
            assert table.content_length[i] == len(content)


def test_ids_beyond_float32_keep_their_value() -> None:
    # 2^24 + 1 and 2^24 + 3 are not float32 numbers; the last key equals the magic itself.
    keys = ShardReader(GOLDEN / "large_ids.rec").keys.tolist()
    assert keys == [2**24 - 1, 2**24, 2**24 + 1, 2**24 + 3, 0xCED7230A, 2**33 + 5]


@pytest.mark.parametrize("name", ["header", "flat_vector", "large_ids"])
def test_missing_index_is_rebuilt_from_ids(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes((GOLDEN / f"{name}.rec").read_bytes())
    reader = ShardReader(tmp_path / "a.rec")
    assert reader.index_rebuilt
    got = {str(k): hashlib.sha256(reader.read(k)).hexdigest() for k in reader.keys.tolist()}
    assert got == EXPECTED[name]


def test_missing_index_without_ids_numbers_the_records(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    with ShardWriter(path) as writer:
        for key in range(5):
            writer.write(key + 100, image_payload(0, key, 9))
    path.with_suffix(".idx").unlink()
    reader = ShardReader(path)
    assert reader.keys.tolist() == [0, 1, 2, 3, 4]
    assert unpack_record(reader.read(3))[0].label[0] == 3


def drop_last(lines: list[str]) -> list[str]:
    return lines[:-1]


def drop_middle(lines: list[str]) -> list[str]:
    return lines[:4] + lines[5:]


def shift_offsets(lines: list[str]) -> list[str]:
    return [f"{key}\t{int(at) + 4}" for key, at in (line.split("\t") for line in lines)]


def swap_keys(lines: list[str]) -> list[str]:
    ats = [line.split("\t")[1] for line in lines]
    return [f"{9 - i}\t{at}" for i, at in enumerate(ats)]


def twice(lines: list[str]) -> list[str]:
    return [*lines[:-1], "3\t" + lines[-1].split("\t")[1]]


def garbage(lines: list[str]) -> list[str]:
    return [*lines, "not an index"]


def odd(lines: list[str]) -> list[str]:
    return [*lines, "11"]


def empty(lines: list[str]) -> list[str]:
    return []


STALE = [
    drop_last,
    drop_middle,
    shift_offsets,
    swap_keys,
    twice,
    garbage,
    odd,
    empty,
]


@pytest.mark.parametrize("spoil", STALE, ids=lambda spoil: spoil.__name__)
def test_stale_index_is_rebuilt(spoil, shard: Path) -> None:
    wanted = [ShardReader(shard).read(key) for key in range(10)]
    index = shard.with_suffix(".idx")
    index.write_text("".join(f"{line}\n" for line in spoil(index.read_text().splitlines())))
    reader = ShardReader(shard)
    assert reader.index_rebuilt
    assert reader.keys.tolist() == list(range(10))
    assert [reader.read(key) for key in range(10)] == wanted


def test_unsorted_index_and_foreign_keys_are_respected(shard: Path) -> None:
    """A shuffled copy numbers records anew but keeps their ids: MXNet goes by the index."""
    index = shard.with_suffix(".idx")
    offsets = [line.split("\t")[1] for line in index.read_text().splitlines()]
    lines = [f"{20 - i}\t{at}\n" for i, at in enumerate(offsets)]
    index.write_text("".join(lines))
    reader = ShardReader(shard)
    assert not reader.index_rebuilt
    assert reader.keys.tolist() == list(range(11, 21))
    assert unpack_record(reader.read(20))[0].id == 0


def test_one_line_gone_of_many_is_found(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "many.rec", [0] * 20000, [b""] * 20000)
    index = path.with_suffix(".idx")
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:9000] + lines[9001:]))
    reader = ShardReader(path)
    assert reader.index_rebuilt
    assert (len(reader), reader.table().framed.all()) == (20000, True)


def test_truncated_shard_names_shard_key_and_offset(shard: Path) -> None:
    offset = offsets(shard)[7]
    shard.write_bytes(shard.read_bytes()[: offset + 30])
    reader = ShardReader(shard)
    assert not reader.index_rebuilt  # the index is right, the shard is not
    assert reader.table().framed.tolist() == [True] * 7 + [False] * 3
    with pytest.raises(DataError, match=rf"ten\.rec: record 7 at offset {offset} .*file ends"):
        reader.read(7)
    with pytest.raises(DataError, match="record 9 at offset"):
        reader.read(9)
    assert unpack_record(reader.read(6))[0].id == 6


@pytest.mark.parametrize("with_index", [True, False])
def test_wrong_magic_costs_one_record(shard: Path, with_index: bool) -> None:
    offset = offsets(shard)[4]
    data = bytearray(shard.read_bytes())
    data[offset] ^= 0xFF
    shard.write_bytes(data)
    if not with_index:
        shard.with_suffix(".idx").unlink()
    reader = ShardReader(shard)
    broken = reader.keys[~reader.table().framed].tolist()
    assert broken == [4]  # without an index: the number free after its predecessor's
    assert len(reader) == 10
    with pytest.raises(DataError, match=rf"record {broken[0]} at offset {offset} .*magic"):
        reader.read(broken[0])
    assert [unpack_record(reader.read(k))[0].id for k in range(10) if k != 4] == [
        k for k in range(10) if k != 4
    ]


def test_damage_anywhere_is_an_error_or_the_right_bytes(tmp_path: Path) -> None:
    """Cut the shard at any byte, flip any bit: nothing but DataError, and other records live."""
    path = tmp_path / "fuzz.rec"
    payloads = [image_payload(k, k, 5 * k) for k in range(4)] + [MAGIC + b"1234" + MAGIC + b"x"]
    with ShardWriter(path) as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)
    whole = path.read_bytes()
    index = path.with_suffix(".idx").read_text()
    starts = [int(line.split("\t")[1]) for line in index.splitlines()] + [len(whole)]

    def check(data: bytes, untouched: list[int]) -> None:
        for text in (index, None):
            path.write_bytes(data)
            path.with_suffix(".idx").write_text(text or "")
            try:
                reader = ShardReader(path)
                reader.table()
            except DataError:
                assert data == b""
                continue
            got = []
            for key in reader.keys.tolist():
                with contextlib.suppress(DataError):
                    got.append(reader.read(key))
            for key in untouched:
                assert payloads[key] in got

    for size in range(0, len(whole), 3):
        check(whole[:size], [k for k in range(5) if starts[k + 1] <= size])
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 200, replace=False).tolist():
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        hit = max(k for k in range(5) if starts[k] <= bit // 8)
        check(bytes(data), [k for k in range(5) if k != hit])


def test_labels_beyond_the_payload_are_refused() -> None:
    with pytest.raises(DataError, match="needs 36 bytes of header; it has 24"):
        unpack_record(struct.pack("<IfQQ", 3, 0.0, 1, 0))
    with pytest.raises(DataError, match="needs 24 bytes of header; it has 4"):
        unpack_record(b"1234")


def test_writer_leaves_nothing_behind_a_failure(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="full"), ShardWriter(tmp_path / "a.rec") as writer:  # noqa: PT012
        writer.write(0, b"payload")
        raise OSError(28, "disk full")
    assert list(tmp_path.iterdir()) == []
    with (  # noqa: PT012
        pytest.raises(DataError, match=r"record 3: must be written once"),
        ShardWriter(tmp_path / "a.rec") as writer,
    ):
        writer.write(3, b"1")
        writer.write(3, b"2")
    assert list(tmp_path.iterdir()) == []


def test_reader_pickles_without_its_map_and_notices_a_changed_file(shard: Path) -> None:
    reader = ShardReader(shard)
    data = pickle.dumps(reader)
    assert len(data) < 1000  # not the shard's 1.2 KB
    assert pickle.loads(data).read(3) == reader.read(3)
    with open(shard, "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="must not change"):
        pickle.loads(data)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.rec: must be a \.rec file"):
        ShardReader(tmp_path / "none.rec")
    (tmp_path / "empty.rec").touch()
    with pytest.raises(DataError, match="the file is empty"):
        ShardReader(tmp_path / "empty.rec")


def test_real_faces_written_by_mxnet(lfw: Path, tmp_path: Path) -> None:
    reader = ShardReader(lfw / "train.rec")
    assert len(reader) == 12112
    assert not reader.index_rebuilt
    assert reader.table().readable.all()
    (tmp_path / "train.rec").symlink_to(lfw / "train.rec")
    scanned = ShardReader(tmp_path / "train.rec")
    assert scanned.index_rebuilt
    assert np.array_equal(scanned.keys, reader.keys)
    everything = np.arange(len(reader))
    assert np.array_equal(scanned.extents(everything), reader.extents(everything))


def test_too_few_descriptors_are_no_fault_of_the_shard(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(recordio, "open", refused, raising=False)
    with pytest.raises(OSError, match="Too many open files"):
        ShardReader(shard)
