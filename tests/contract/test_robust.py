"""Robust methods from the command line: one config key, their state, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import Call
from helpers.shards import damage_image

from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.sample_history import read_samples


@pytest.fixture(scope="module")
def trusted(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay that keeps two images of each identity."""
    dataset = FaceDataset.open(faces)
    kept = np.zeros(dataset.num_rows, np.bool_)
    kept[np.unique(dataset.label, return_index=True)[1]] = True
    kept[np.unique(dataset.label, return_index=True)[1] + 1] = True
    label = dataset.class_ids[dataset.label]
    path = tmp_path_factory.mktemp("trusted") / "trusted.npz"
    LabelOverlay.make(label, kept, dataset_fingerprint=dataset.base_fingerprint).save(path)
    return path


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (["robust.name=superloss", "robust.lam=0.25"], {"weight"}),
        (["robust.name=nal", "robust.warmup_epochs=1"], {"weight"}),
        (["robust={name: nal, warmup_epochs: 0, targets: {count: 3}}"],
         {"weight", "estimated_label"}),
        (["robust.name=superloss", "robust.dominant=true", "head.num_centres=3"], {"weight"}),
        (["robust={name: nal, dominant: true, warmup_epochs: 1}",
          "head={num_centres: 2, filter_above: 0.4}"],
         {"weight"}),
        (["robust.name=superloss", "head={margin: adaface, chunk_size: 3}"], {"weight"}),
        (["robust.name=l2b", "robust.batch_size=8", "robust.warmup_epochs=0",
          "train.clip_norm=0.8"],
         {"alpha", "beta", "estimated_label"}),
    ],
)  # fmt: skip
def test_a_robust_training_leaves_a_backbone_and_its_weights_by_image(
    recipe: Path, trusted: Path, tmp_path: Path, call: Call, settings: list[str], kept: set[str]
) -> None:
    if "robust.name=l2b" in settings:
        settings = [*settings, f"robust.trusted={trusted}"]
    call.done("train", recipe, "--out", tmp_path / "train", *settings)
    assert (tmp_path / "train" / "backbone.safetensors").is_file()
    samples = read_samples(tmp_path / "train")
    assert samples.keys() == kept
    for _, values in samples.values():
        assert values.shape[1] == 48
        assert np.isfinite(values[-1]).all()  # 48 images are four whole batches of twelve
    if "alpha" in kept:  # 16 of the 48 are trusted, so not trained on
        assert (samples["alpha"].values[-1] + samples["beta"].values[-1] == 0).sum() >= 16
    manifest = json.loads((tmp_path / "train" / "manifest.json").read_text())
    assert manifest["config"]["robust"]["name"] in settings[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["robust.name=bootstrap"], "superloss"),
        (["robust.name=nal", "head.sample_rate=0.5"], "set it to 1"),
        (["robust.name=l2b", "robust.trusted=.", "train.accumulate=2"], "accumulate"),
        (["robust.name=l2b"], "trusted"),
        (["robust.name=l2b", "robust.trusted=."], "clip_norm"),
        (
            ["robust.name=l2b", "robust.trusted=nowhere.npz", "train.clip_norm=1"],
            "there is no nowhere.npz",
        ),
        (["robust.name=superloss", "robust.boost=3"], "boost"),
        (
            ["robust.boost=3"],
            "robust needs a name, one of superloss, nal, l2b; set robust.name",
        ),
        (["robust.name=superloss", "robust.dominant=true"], "num_centres"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_message(
    recipe: Path, tmp_path: Path, call: Call, settings: list[str], says: str
) -> None:
    assert says in call.refused("train", recipe, "--out", tmp_path / "train", *settings)


def test_too_few_trusted_images_are_refused(
    recipe: Path, trusted: Path, tmp_path: Path, call: Call
) -> None:
    settings = ("robust.name=l2b", f"robust.trusted={trusted}", "train.clip_norm=0.8")
    assert "there are 16" in call.refused("train", recipe, "--out", tmp_path / "train", *settings)


def test_trusting_most_of_the_training_set_is_refused(
    recipe: Path, faces: Path, tmp_path: Path, call: Call
) -> None:
    """Trusted images are held out: an overlay of a whole cleaning would leave only its noise."""
    dataset = FaceDataset.open(faces)
    path = tmp_path / "all.npz"
    LabelOverlay.make(dataset.class_ids[dataset.label], np.ones(48, np.bool_)).save(path)
    words = ["robust.name=l2b", f"robust.trusted={path}", "train.clip_norm=1"]
    words.append("robust.batch_size=8")
    assert "trusts 48 of the 48" in call.refused(
        "train", recipe, "--out", tmp_path / "train", *words
    )
    call.done("train", recipe, "--out", tmp_path / "t", *words, "robust.hold_out=false")


def test_a_trusted_image_that_cannot_be_decoded_is_skipped_or_named_as_the_recipe_says(
    recipe: Path, faces: Path, tmp_path: Path, call: Call
) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    damage_image(tmp_path / "faces/train.rec", 1)
    dataset = FaceDataset.open(tmp_path / "faces")
    kept = np.zeros(48, np.bool_)
    kept[:8] = True  # of which a look-ahead takes all
    overlay = tmp_path / "trusted.npz"
    LabelOverlay.make(dataset.class_ids[dataset.label], kept).save(overlay)
    settings = [f"data.path={tmp_path / 'faces'}", "robust.name=l2b", f"robust.trusted={overlay}"]
    settings += ["robust.batch_size=8", "robust.warmup_epochs=0", "train.clip_norm=1"]
    words = ["train", recipe, "--out", tmp_path / "train", *settings, "train.max_steps=2"]
    assert "record train.rec:1" in call.refused(*words)
    call.done(*words, "data.on_corrupt=skip")


def test_another_method_does_not_continue_a_run(recipe: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "train"
    assert call("train", recipe, "--out", out, "train.max_steps=4")[0] == 0
    assert "another robust" in call.refused("train", recipe, "--out", out, "robust.name=superloss")


def test_what_a_training_ends_before_is_told(recipe: Path, tmp_path: Path, call: Call) -> None:
    """Two epochs: a warm-up of 2 is the whole training, one of 1.9 is not; milestones as well."""
    late = ["robust={name: nal, targets: {every_epochs: 3, warmup_epochs: 1.9}}"]
    late += ["schedule={name: multistep, milestones: [1, 2]}", "train.margin_warmup_epochs=1.9"]
    _, _, err = call("train", recipe, "--out", tmp_path / "a", *late, "train.max_steps=1")
    told = [line.partition(": the training ends")[0] for line in err.splitlines()]
    told = [line.split()[-1] for line in told if line.endswith(("=2", "=1.9"))]
    assert told == [
        "robust.warmup_epochs=2", "robust.targets.every_epochs=2", "schedule.milestones=2",
    ]  # fmt: skip
