"""`facetrain corrupt` as scripts rely on it: files, arrays, what it prints, exit codes."""

from pathlib import Path

import numpy as np
import pytest
from helpers.cli import Call

from facetrain.data.dataset import FaceDataset


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Embeddings of ten identities with ten images each."""
    path = tmp_path / "features.npz"
    embedding = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.savez(path, embedding=embedding, label=np.repeat(np.arange(10), 10))
    return path


def test_a_data_set_gets_an_overlay_and_its_truth(faces: Path, tmp_path: Path, call: Call) -> None:
    """Eight identities with six images: 25 % of 48 are 12."""
    out = tmp_path / "out" / "o.npz"
    stdout = call.done("corrupt", faces, "--flip", 0.25, "--seed", 7, "--out", out)
    assert "flip: 12" in stdout.splitlines()
    assert "clean: 36" in stdout.splitlines()
    clean = FaceDataset.open(faces)
    noisy = FaceDataset.open(faces, [out])
    with np.load(out.with_name("truth.npz")) as truth:
        assert sorted(truth) == ["is_clean", "true_label"]
        assert truth["is_clean"].dtype == bool
        true_label, is_clean = truth["true_label"], truth["is_clean"]
    assert np.array_equal(true_label, clean.class_ids[clean.label])
    assert np.array_equal(is_clean, noisy.class_ids[noisy.label] == true_label)
    assert (~is_clean).sum() == 12


@pytest.mark.parametrize("kind", ["flip", "outlier", "structured"])
def test_features_get_features(kind: str, features: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "noisy.npz"
    stdout = call.done("corrupt", features, f"--{kind}", 0.2, "--seed", 1, "--out", out)
    assert f"{kind}: 20" in stdout.splitlines()
    with np.load(features) as source, np.load(out) as noisy:
        assert np.array_equal(noisy["embedding"], source["embedding"])
        assert noisy["is_clean"].dtype == bool
        assert np.array_equal(noisy["is_clean"], noisy["label"] == source["label"])
        assert (~noisy["is_clean"]).sum() == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}/none.npz", "--flip", 0.1, "--out", "{tmp}/o.npz"), "there is no such file"),
        (("{tmp}/none.rec", "--flip", 0.1, "--out", "{tmp}/o.npz"), "none.rec"),
        (("{features}", "--flip", 1.5, "--out", "{tmp}/o.npz"), "flip=1.5"),
        (("{features}", "--flip", "nan", "--out", "{tmp}/o.npz"), "flip=nan"),
        (("{features}", "--flip", "much", "--out", "{tmp}/o.npz"), "--flip"),
        (("{features}", "--flip", 0.5, "--outlier", 0.6, "--out", "{tmp}/o.npz"), "less than 1"),
        (("{features}", "--structured", 0.6, "--out", "{tmp}/o.npz"), "set structured to 0."),
        (("{features}", "--seed", -1, "--out", "{tmp}/o.npz"), "seed=-1"),
        (("{features}", "--flip", 0.1, "--out", "{features}"), "must not be the source"),
        (("{features}", "--flip", 0.1), "--out"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(
    arguments: tuple[object, ...], message: str, features: Path, tmp_path: Path, call: Call
) -> None:
    places = {"tmp": tmp_path, "features": features}
    assert message in call.refused(
        "corrupt", *(str(argument).format(**places) for argument in arguments)
    )
    assert not (tmp_path / "o.npz").exists()


def test_shuffled_labels(faces: Path, tmp_path: Path, call: Call) -> None:
    """The control: every identity keeps its number of images, and few of its own."""
    out = call.done("corrupt", faces, "--shuffle", "--out", tmp_path / "o.npz")
    clean, shuffled = FaceDataset.open(faces), FaceDataset.open(faces, [tmp_path / "o.npz"])
    assert np.array_equal(np.sort(clean.label), np.sort(shuffled.label))
    moved = int((clean.label != shuffled.label).sum())
    assert f"flip: {moved}" in out.splitlines()
    assert moved > 30  # of 48; one in eight stays by chance, 6 on average
    with np.load(tmp_path / "truth.npz") as truth:
        assert (~truth["is_clean"]).sum() == moved
    assert "shuffle leaves no label to plant other noise into" in call.refused(
        "corrupt", faces, "--shuffle", "--flip", 0.1, "--out", tmp_path / "p.npz"
    )
