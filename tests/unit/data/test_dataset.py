"""Layouts, labels and overlays of a data set."""

import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.shards import picture, recount, write_flat, write_shard

from facetrain.core.errors import DataError
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.overlay import LabelOverlay
from facetrain.data.shards.face_shard import FaceShardWriter
from facetrain.data.shards.recordio import ShardWriter

GOLDEN = Path(__file__).parents[2] / "golden"


def test_header_layout_from_mxnet() -> None:
    data = FaceDataset.open(GOLDEN / "header.rec")
    assert (data.layout, data.num_images, data.num_classes, data.num_rows) == ("header", 6, 3, 6)
    assert data.label.tolist() == [0, 0, 1, 2, 2, 2]
    assert [data.key(i) for i in (0, 5)] == ["header.rec:1", "header.rec:6"]
    assert data.decode(0, 16).shape == (16, 16, 3)


def test_flat_layout_with_vector_labels_is_not_taken_for_the_header_layout() -> None:
    data = FaceDataset.open(GOLDEN / "flat_vector.rec")
    assert data.layout == "flat"
    assert data.label.tolist() == [0, 1, 0, 1, 0]  # label[0] of each


def test_labels_come_from_images_not_from_identity_ranges(tmp_path: Path) -> None:
    # Identity 4 occurs twice, as in the first Glint360K: one class, not two.
    data = FaceDataset.open(write_shard(tmp_path / "a.rec", [4, 4, 9, 4]))
    assert data.class_ids.tolist() == [4, 9]
    assert data.label.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("after", [2.0**24, 17091658.0, float("nan"), -1.0, 1000.0])
def test_a_count_that_cannot_be_right_is_not_believed(tmp_path: Path, after: float) -> None:
    # 17091658 images, as Glint360K has, are beyond float32's integers.
    path = write_shard(tmp_path / "a.rec", [1, 2, 3])
    data = FaceDataset.open(recount(path, 3, 3, after))
    assert data.layout == "header"
    assert data.class_ids.tolist() == [1, 2, 3]


def test_keys_beyond_float32_are_told_apart(tmp_path: Path) -> None:
    first = 2**24 - 1  # 2^24 and 2^24 + 1 are one float32
    write_flat(tmp_path / "a.rec", {first + i: i for i in range(4)})
    data = FaceDataset.open(tmp_path / "a.rec")
    assert [data.key(i) for i in range(4)] == [f"a.rec:{first + i}" for i in range(4)]


def test_shards_follow_each_other_by_name(tmp_path: Path) -> None:
    write_shard(tmp_path / "b.rec", [2, 3])
    write_shard(tmp_path / "a.rec", [0, 2, 2])
    data = FaceDataset.open(tmp_path)
    assert data.label.tolist() == [0, 1, 1, 1, 2]
    assert [data.key(i) for i in (0, 2, 3, 4)] == ["a.rec:1", "a.rec:3", "b.rec:1", "b.rec:2"]
    assert data.encoded(4) == picture(10)
    copy = pickle.loads(pickle.dumps(data))
    assert [copy.encoded(i) for i in range(5)] == [data.encoded(i) for i in range(5)]


def test_mixed_layouts(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.rec", [0, 1])
    write_flat(tmp_path / "b.rec", [1, [5, 3]])
    data = FaceDataset.open(tmp_path)
    assert data.layout == "mixed"
    assert data.class_ids[data.label].tolist() == [0, 1, 1, 5]


def test_decode_gives_rgb_and_the_centre_square(tmp_path: Path) -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = (200, 100, 0)  # the centre square is orange, the rest black
    write_flat(tmp_path / "a.rec", [0], [encode_jpeg(image, 100)])
    got = FaceDataset.open(tmp_path).decode(0, 10)
    assert got.shape == (10, 10, 3)
    # JPEG at quality 100 changes a flat colour by at most a few levels of 255.
    assert np.abs(got[2:8, 3:7].astype(int) - (200, 100, 0)).max() <= 6


def test_garbage_and_cut_images_are_named(tmp_path: Path) -> None:
    whole = picture(90, 40)
    write_flat(tmp_path / "a.rec", [0, 0, 0, 0], [b"garbage", whole[:-4], b"", whole])
    data = FaceDataset.open(tmp_path)
    with pytest.raises(DataError, match=r"record a\.rec:0: .*7 bytes do not decode"):
        data.decode(0, 8)
    with pytest.raises(DataError, match=r"record a\.rec:1: .*JPEG is cut short"):
        data.decode(1, 8)
    with pytest.raises(DataError, match=r"record a\.rec:2: "):
        data.decode(2, 8)
    assert data.decode(3, 40).shape == (40, 40, 3)


@pytest.mark.parametrize("label", [-1.0, 2.5, float("nan"), float("inf")])
def test_impossible_label_names_shard_key_and_value(tmp_path: Path, label: float) -> None:
    write_flat(tmp_path / "a.rec", [0, 1, label, 3])
    with pytest.raises(DataError, match=rf"a\.rec: record 2 must have .* got {label}"):
        FaceDataset.open(tmp_path / "a.rec")


def test_truncated_shard_is_an_error_or_a_counted_skip(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "a.rec", [0, 1, 2, 3])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"a\.rec: record 3 at offset \d+ must be whole"):
        FaceDataset.open(path)
    data = FaceDataset.open(path, on_corrupt="skip")
    assert (data.num_images, data.num_rows, data.num_unreadable) == (3, 4, 1)
    assert data.row.tolist() == [0, 1, 2]


def test_record_without_room_for_its_labels_is_named(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.rec") as writer:
        writer.write(0, struct.pack("<IfQQ", 0, 0, 0, 0) + picture(0))
        writer.write(1, struct.pack("<IfQQ", 900, 0, 1, 0) + b"short")
    with pytest.raises(DataError, match=r"a\.rec: record 1: .*needs 3624 bytes"):
        FaceDataset.open(tmp_path)


def test_overlay_drops_relabels_and_closes_the_gaps(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.rec", [0, 0, 1, 2, 2, 3])
    base = FaceDataset.open(path)
    overlay = LabelOverlay.make(
        np.array([0, 2, 1, 2, 2, 7]),
        np.array([True, True, False, True, True, True]),
        dataset_fingerprint=base.fingerprint,
    )
    overlay.save(tmp_path / "clean.npz")
    data = FaceDataset.open(path, [tmp_path / "clean.npz"])
    # Class 1 loses its only image and disappears; 3 became 7: classes 0, 2, 7 -> 0, 1, 2.
    assert data.row.tolist() == [0, 1, 3, 4, 5]
    assert data.class_ids.tolist() == [0, 2, 7]
    assert data.label.tolist() == [0, 1, 1, 1, 2]
    assert data.num_rows == 6
    assert data.encoded(2) == base.encoded(3)
    assert data.key(2) == "a.rec:4"
    assert data.base_fingerprint == base.fingerprint != data.fingerprint
    # An overlay beside the shards does not change the shards' fingerprint.
    assert FaceDataset.open(tmp_path).fingerprint == base.fingerprint


def test_overlay_of_another_data_set_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.rec", [0, 0, 1])
    other = FaceDataset.open(write_shard(tmp_path / "b.rec", [0, 1, 1]))
    label, kept = np.zeros(3, np.int64), np.ones(3, np.bool_)
    LabelOverlay.make(label, kept, dataset_fingerprint=other.fingerprint).save(tmp_path / "o.npz")
    with pytest.raises(DataError, match=f"belongs to data set {other.fingerprint[:12]}"):
        FaceDataset.open(path, [tmp_path / "o.npz"])
    LabelOverlay.make(label[:2], kept[:2]).save(tmp_path / "short.npz")
    with pytest.raises(DataError, match=r"must cover the 3 images .* has 2 rows"):
        FaceDataset.open(path, [tmp_path / "short.npz"])
    LabelOverlay.make(label, ~kept).save(tmp_path / "none.npz")
    with pytest.raises(DataError, match="must leave images to use, got none of 3"):
        FaceDataset.open(path, [tmp_path / "none.npz"])


def test_fingerprint_follows_content_not_names(tmp_path: Path) -> None:
    one = FaceDataset.open(write_shard(tmp_path / "a.rec", [0, 1]))
    (tmp_path / "moved").mkdir()
    shutil.copy(tmp_path / "a.rec", tmp_path / "moved" / "renamed.rec")
    assert FaceDataset.open(tmp_path / "moved").fingerprint == one.fingerprint
    assert FaceDataset.open(write_shard(tmp_path / "b.rec", [0, 2])).fingerprint != one.fingerprint


def test_shard_writer_refuses_labels_the_layout_cannot_hold(tmp_path: Path) -> None:
    for label in (-1, 2**24):
        with (
            pytest.raises(DataError, match="integer from 0 to 2"),
            FaceShardWriter(tmp_path / "a.rec") as writer,
        ):
            writer.write(label, b"")
    assert list(tmp_path.iterdir()) == []


def test_no_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold \.rec shards"):
        FaceDataset.open(tmp_path)
    with pytest.raises(DataError, match="there is none"):
        FaceDataset.open(tmp_path / "nowhere")


def test_real_faces(lfw: Path) -> None:
    data = FaceDataset.open(lfw / "train.rec")
    assert (data.num_images, data.num_classes, data.layout) == (8309, 3802, "header")
    lines = [line.split("\t") for line in (lfw / "train.lst").read_text().splitlines()]
    assert data.label.tolist() == [int(label) for _, label, _ in lines]
    assert [data.key(i) for i in (0, 8308)] == ["train.rec:1", "train.rec:8309"]
    assert data.decode(17, 112).shape == (112, 112, 3)
    assert data.decode(17, 48).shape == (48, 48, 3)
