"""`corrupt` on files: overlays that a data set takes, truth that agrees, features."""

from pathlib import Path

import numpy as np
import pytest
from helpers.shards import damage_magic, write_shard

from facetrain.core.errors import ConfigError, DataError, OutputError
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import Features, load_features, save_features
from facetrain.data.noise.corrupt import corrupt
from facetrain.data.noise.plant import NoiseConfig, plant
from facetrain.data.overlay import LabelOverlay

LABEL = [3] * 8 + [40] * 6 + [41] * 4 + [7] * 2  # classes with gaps, in two shards
MIX = NoiseConfig(flip=0.25, outlier=0.05, seed=2)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shard(tmp_path / "set" / "a.rec", LABEL[:10])
    write_shard(tmp_path / "set" / "b.rec", LABEL[10:])
    return tmp_path / "set"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = np.array([f"{row}.jpg" for row in range(20)])
    names = np.array(["ann", "bob"])
    embedding = np.arange(1, 41, dtype=np.float16).reshape(20, 2)
    save_features(
        tmp_path / "f.npz", Features(embedding, np.array(LABEL), extra={"path": path, "n": names})
    )
    return tmp_path / "f.npz"


def test_an_overlay_with_its_truth(shards: Path, tmp_path: Path) -> None:
    counts = corrupt(shards, tmp_path / "out" / "noise.npz", MIX)
    assert counts == {
        "num_images": 20,
        "num_identities": 4,
        "num_unreadable": 0,
        "clean": 13,
        "flip": 5,
        "outlier": 1,
        "structured": 0,
        "dropped": 1,  # identity 7 has two images, and one outlier is asked for
    }
    planted = plant(np.array(LABEL), MIX)
    with np.load(tmp_path / "out" / "truth.npz") as truth:
        assert truth["true_label"].tolist() == LABEL
        assert np.array_equal(truth["is_clean"], planted.is_clean)
        assert truth["is_clean"].dtype == bool
    overlay = LabelOverlay.load(tmp_path / "out" / "noise.npz")
    assert np.array_equal(overlay.label, planted.label)
    assert np.array_equal(overlay.kept, planted.kept)
    assert overlay.source_names == ("", "corrupt")
    assert np.array_equal(overlay.source == 1, (overlay.label != LABEL) | ~overlay.kept)
    # The data set takes it, and only this one does.
    noisy = FaceDataset.open(shards, [tmp_path / "out" / "noise.npz"])
    assert noisy.num_images == 19
    assert np.array_equal(noisy.class_ids[noisy.label], planted.label[planted.kept])
    assert noisy.class_ids.tolist() == [3, 40, 41]
    with pytest.raises(DataError, match="must cover the 10 images"):
        FaceDataset.open(shards / "a.rec", [tmp_path / "out" / "noise.npz"])


def test_a_folder_receives_the_usual_names(shards: Path, features: Path, tmp_path: Path) -> None:
    corrupt(shards, tmp_path / "o", MIX)
    corrupt(features, tmp_path / "o", MIX)
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["features.npz", "overlay.npz", "truth.npz"]


def test_the_same_seed_writes_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):
        corrupt(shards, tmp_path / name, MIX)
    for name in ("overlay.npz", "truth.npz"):
        first, again = (np.load(tmp_path / run / name) for run in ("first", "again"))
        assert all(
            np.array_equal(first[key], again[key], equal_nan=key == "clean_probability")
            for key in first.files
        )


def test_features_lose_only_the_surplus_rows(features: Path, tmp_path: Path) -> None:
    corrupt(features, tmp_path / "noisy.npz", MIX)
    planted = plant(np.array(LABEL), MIX)
    kept = np.flatnonzero(planted.kept)
    found, source = load_features(tmp_path / "noisy.npz", True), load_features(features)
    assert len(found.label) == 19
    assert np.array_equal(found.embedding, source.embedding[kept])
    assert found.embedding.dtype == np.float16
    assert np.array_equal(found.label, planted.label[kept])
    assert np.array_equal(found.is_clean, planted.is_clean[kept])
    assert np.array_equal(found.extra["true_label"], np.array(LABEL)[kept])
    assert found.extra["path"].tolist() == [f"{row}.jpg" for row in kept]
    assert found.extra["n"].tolist() == ["ann", "bob"]


def test_no_noise_is_a_control(shards: Path, features: Path, tmp_path: Path) -> None:
    assert corrupt(shards, tmp_path / "o", NoiseConfig())["clean"] == 20
    overlay = LabelOverlay.load(tmp_path / "o" / "overlay.npz")
    assert overlay.kept.all()
    assert overlay.label.tolist() == LABEL
    assert (overlay.source == 0).all()
    corrupt(features, tmp_path / "clean.npz", NoiseConfig())
    assert load_features(tmp_path / "clean.npz").is_clean.all()
    # Labels known to be clean may be corrupted, noisy ones may not.
    corrupt(tmp_path / "clean.npz", tmp_path / "noisy.npz", MIX)
    with pytest.raises(DataError, match="says that 6 of 19 are noise"):
        corrupt(tmp_path / "noisy.npz", tmp_path / "twice.npz", MIX)


def test_unreadable_records_take_no_part(shards: Path, tmp_path: Path) -> None:
    damage_magic(shards / "b.rec", 2)
    row = 10 + 1
    counts = corrupt(shards, tmp_path / "o", NoiseConfig(flip=0.2))
    assert (counts["num_images"], counts["num_unreadable"], counts["dropped"]) == (19, 1, 0)
    truth = np.load(tmp_path / "o" / "truth.npz")
    assert truth["true_label"][row] == -1
    assert not truth["is_clean"][row]
    assert len(truth["is_clean"]) == 20
    noisy = FaceDataset.open(shards, [tmp_path / "o" / "overlay.npz"], on_corrupt="skip")
    assert noisy.num_images == 19


def test_what_must_not_be_overwritten(shards: Path, features: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must not be the source"):
        corrupt(features, features, MIX)
    with pytest.raises(ConfigError, match=r"truth\.npz holds the truth"):
        corrupt(shards, tmp_path / "truth.npz", MIX)
    with pytest.raises(OutputError, match="something else stands there"):
        corrupt(shards, features / "o", MIX)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OutputError, match="something else stands there"):
        corrupt(features, tmp_path / "folder.npz", MIX)
