"""What shards of one set are, and what two sets in one folder are; sets side by side."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from helpers.shards import damage_magic, picture, recount, write_flat, write_shard

from facetrain.core.config import parse_config
from facetrain.core.errors import ConfigError, DataError
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.inspection import inspect
from facetrain.data.overlay import LabelOverlay


@pytest.mark.parametrize("names", [("ms1m.rec", "casia.rec"), ("set1.rec", "set2.rec")])
def test_two_sets_in_one_folder_are_refused_and_the_way_is_told(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for name, labels in zip(names, ([0, 0, 1, 2], [0, 1, 1, 2, 2]), strict=True):
        write_shard(tmp_path / name, labels)
    with pytest.raises(DataError, match=r"3 in all, 0 first.*data\.path=\["):
        FaceDataset.open(tmp_path)
    with pytest.raises(DataError, match=r"data\.path=\["):
        inspect(tmp_path, show_progress=False)
    both = FaceDataset.open([tmp_path / name for name in names])
    assert both.label.tolist() == [0, 0, 1, 2, 3, 4, 4, 5, 5]


def test_two_sets_of_one_identity_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "ann.rec", [0, 0])
    write_shard(tmp_path / "bob.rec", [0, 0])
    with pytest.raises(DataError, match="1 in all, 0 first"):
        FaceDataset.open(tmp_path)


def test_shards_of_one_set_are_taken(tmp_path: Path) -> None:
    # As pack leaves them: one identity over three shards, keys from 1 in each.
    for number, labels in enumerate([[0, 1], [1], [1, 2]]):
        write_shard(tmp_path / f"pack/train-0000{number}.rec", labels)
    assert FaceDataset.open(tmp_path / "pack").label.tolist() == [0, 1, 1, 1, 2]
    # As im2rec's chunks of a shuffled list: every label everywhere, no index twice.
    (tmp_path / "chunks").mkdir()
    write_flat(tmp_path / "chunks/train_0.rec", {0: 1, 3: 0, 4: 2})
    write_flat(tmp_path / "chunks/train_1.rec", {1: 2, 2: 1, 5: 0})
    assert FaceDataset.open(tmp_path / "chunks").label.tolist() == [1, 0, 2, 2, 1, 0]
    # Labels of their own: nobody can be merged, whatever the names.
    write_shard(tmp_path / "own/a.rec", [0, 2])
    write_shard(tmp_path / "own/b.rec", [1, 3])
    assert FaceDataset.open(tmp_path / "own").num_classes == 4


def test_sets_side_by_side(tmp_path: Path) -> None:
    a = write_shard(tmp_path / "a/train.rec", [0, 0, 2])
    b = write_shard(tmp_path / "b/train.rec", [0, 1, 1])
    names = {"0": "ann", "2": "cem"}, {"0": "ann", "1": "bob"}
    for path, named in zip((a, b), names, strict=True):
        (path.parent / "classes.json").write_text(json.dumps(named))
    a.with_suffix(".lst").write_text("1\t0\tann/0.jpg\n2\t0\tann/1.jpg\n3\t2\tcem/x y.jpg\n")
    b.with_suffix(".lst").write_text("3\t1\tbob/b.jpg\n1\t0\tann/0.jpg\n")  # another order
    data = FaceDataset.open([a.parent, b])
    # a has labels up to 2, so b's begin at 3.
    assert data.class_ids.tolist() == [0, 2, 3, 4]
    assert data.label.tolist() == [0, 0, 1, 2, 3, 3]
    assert data.base_label.tolist() == [0, 0, 2, 3, 4, 4]
    assert data.names == ("ann", "cem", "ann", "bob")
    assert [data.source(i) for i in range(6)] == [
        "ann/0.jpg", "ann/1.jpg", "cem/x y.jpg", "ann/0.jpg", None, "bob/b.jpg"
    ]  # fmt: skip
    assert data.key(3) == f"{b}:1"
    assert [data.encoded(i) for i in (0, 4)] == [picture(0), picture(10)]
    alone, swapped = FaceDataset.open(a), FaceDataset.open([b, a])
    assert len({one.base_fingerprint for one in (data, alone, swapped)}) == 3
    with pytest.raises(DataError, match="one is there twice"):
        FaceDataset.open([a, a])
    # Both anns become one person by an overlay over all six rows.
    label = np.array([0, 0, 2, 0, 4, 4])
    overlay = LabelOverlay.make(label, np.ones(6, np.bool_), dataset_fingerprint=data.fingerprint)
    overlay.save(tmp_path / "merge.npz")
    assert FaceDataset.open([a, b], [tmp_path / "merge.npz"]).label.tolist() == [0, 0, 1, 0, 2, 2]


def test_an_offset_does_not_depend_on_damage_to_the_last_identity(tmp_path: Path) -> None:
    a = write_shard(tmp_path / "a/train.rec", [0, 1, 2])
    (a.parent / "property").write_text("3,112,112\n")
    b = write_shard(tmp_path / "b/train.rec", [0, 1])
    damage_magic(a, 3)
    data = FaceDataset.open([a, b], on_corrupt="skip")
    assert data.base_label.tolist() == [0, 1, -1, 3, 4]


def test_the_recipe_takes_one_path_or_several() -> None:
    one = parse_config(DataConfig, {"path": "a,b.rec"}, "test")
    assert one.path == (Path("a,b.rec"),)
    assert one.model_dump(mode="json")["path"] == "a,b.rec"  # as before, so digests stay
    two = parse_config(DataConfig, {"path": ["a", "b"]}, "test")
    assert two.path == (Path("a"), Path("b"))
    assert two.where == "a + b"
    assert parse_config(DataConfig, two.model_dump(mode="json"), "test") == two
    with pytest.raises(ConfigError, match="data: path"):
        parse_config(DataConfig, {"path": []}, "data")
    with pytest.raises(ConfigError, match=r"workers=5000.*less than or equal to 256"):
        parse_config(DataConfig, {"path": "a", "workers": 5000}, "data")


@pytest.mark.parametrize("label", [2**24, 2**24 + 2, 2**30])
def test_labels_that_may_have_merged_neighbours_are_refused(tmp_path: Path, label: int) -> None:
    # 2^24 itself is what 2^24 + 1 becomes: six people are two.
    path = write_flat(tmp_path / "a.rec", {0: 0, 1: 2**24 - 1, 2: label, 3: label + 1})
    with pytest.raises(DataError, match=rf"below 2\^24 .* but 2 are not, record 2 .*{label}"):
        FaceDataset.open(path, on_corrupt="skip")
    result = inspect(path, show_progress=False)
    assert result["merged_label"] == [2, 3]
    assert result["invalid_label"] == []


def test_a_count_below_the_images_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_shard(tmp_path / "a.rec", [0, 1, 2, 3])
    recount(path, 4, 4, 3)
    with caplog.at_level(logging.WARNING, "facetrain"):
        assert FaceDataset.open(path).num_images == 4
    assert "counts 2 images, but 2 more follow" in caplog.text
