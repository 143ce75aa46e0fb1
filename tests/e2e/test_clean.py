"""A run that cleans its labels: planted noise -> train, clean, retrain, compare."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cleaned_run import EASY, NUM_CLASSES, PER_CLASS, STAGES, TRAININGS, manifests
from helpers.cli import command
from safetensors.torch import load_file

from facetrain import pipeline
from facetrain.clean import adc
from facetrain.core.artifact import fingerprint
from facetrain.data import dataset
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.shards.shard_set import OnCorrupt, ShardSet
from facetrain.dist.mesh import Mesh
from facetrain.recipe import load_recipe


def test_the_second_training_sees_what_was_kept(recipe: Path, finished: Path) -> None:
    assert sorted(manifests(finished)) == sorted(STAGES)
    with np.load(finished / "clean" / "clean.npz") as arrays:
        probability, threshold, kept, suggested = (
            arrays[name] for name in ("clean_probability", "threshold", "kept", "suggested_label")
        )
        class_id = arrays["class_id"]
    faces, noise = recipe.parent / "faces", recipe.parent / "noise" / "overlay.npz"
    before = FaceDataset.open(faces, [noise])
    num_images = NUM_CLASSES * PER_CLASS
    assert probability.shape == kept.shape == suggested.shape == (num_images,)
    assert np.array_equal(class_id, before.class_ids)
    assert threshold.shape == (before.num_classes,)
    assert np.array_equal(kept, probability > threshold[before.label])
    # Better than guessing, which would drop the same share of noise and of clean images.
    with np.load(noise.with_name("truth.npz")) as arrays:
        is_clean = arrays["is_clean"]
    assert (~kept[~is_clean]).mean() > (~kept[is_clean]).mean() + 0.4
    # The overlay says the same in the data set's own terms, and the data set takes it.
    overlay = LabelOverlay.load(finished / "clean" / "overlay.npz")
    assert np.array_equal(overlay.kept[before.row], kept)
    np.testing.assert_array_equal(overlay.clean_probability[before.row], probability)
    after = FaceDataset.open(faces, [noise, finished / "clean" / "overlay.npz"])
    assert np.array_equal(after.row, before.row[kept])
    assert np.array_equal(
        after.class_ids[after.label], before.class_ids[before.label][kept]
    )  # the labels stay, wrong ones too: only images go
    seen = {name: json.loads(text)["metrics"] for name, text in manifests(finished).items()}
    assert seen["train"]["num_images"] == num_images
    assert seen["retrain"]["num_images"] == kept.sum()


def test_what_was_found_is_told(
    recipe: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    numbers = json.loads((finished / "summary.json").read_text())
    assert list(numbers["verification"]) == ["pairs, cleaned labels", "pairs, noisy labels"]
    with np.load(recipe.parent / "noise" / "truth.npz") as arrays:
        is_clean = arrays["is_clean"]
    with np.load(finished / "clean" / "clean.npz") as arrays:
        kept = arrays["kept"]
    noise = numbers["noise"]
    assert noise["num_noise"] == (~is_clean).sum() == round(0.2 * len(is_clean))
    assert noise["num_found"] == (~is_clean & ~kept).sum()
    assert noise["num_missed"] == (~is_clean & kept).sum()
    assert noise["num_wrongly_dropped"] == (is_clean & ~kept).sum()
    command("run", recipe, "--out", finished)
    out = capfd.readouterr().out
    assert "wrongly dropped" in out
    for name in ("pairs, noisy labels", "pairs, cleaned labels"):
        accuracy = numbers["verification"][name]["accuracy"]
        row = next(line for line in out.splitlines() if line.startswith(name))
        assert f"{accuracy:.4f}" in row
    page = (finished / "report.html").read_text()
    assert "wrongly dropped" in page
    for picture in ("clean_probability.png", "dropped.png", "class_noise.png"):
        assert (finished / "pictures" / picture).is_file()


def test_export_takes_the_second_backbone(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    command("export", finished, "--format", "safetensors", "--out", out)
    exported, first, second = (
        load_file(file)["stem.0.weight"]
        for file in (out, *(finished / f"{name}/backbone.safetensors" for name in TRAININGS))
    )
    assert torch.equal(exported, second)
    assert not torch.equal(exported, first)


def test_started_after_its_end_every_stage_is_skipped(
    recipe: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifests(finished)
    written = {path: path.stat().st_mtime_ns for path in finished.rglob("*.npz")}
    opened: list[Path] = []

    class Counted(ShardSet):
        def __init__(self, path: Path, on_corrupt: OnCorrupt) -> None:
            opened.append(path)
            super().__init__(path, on_corrupt)

    monkeypatch.setattr(dataset, "ShardSet", Counted)
    command("run", recipe, "--out", finished)
    assert opened == 2 * [recipe.parent / "faces"]  # once by the stages, once by the report
    assert manifests(finished) == before
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.npz")} == written


def test_other_cleaning_settings_train_again_and_keep_the_former(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = manifests(out)
    command("run", recipe, "--out", out, "clean.seed=1")
    after = manifests(out)
    assert after["clean"] != before["clean"]
    kept = json.loads(after["clean"])["metrics"]["num_kept"]
    assert json.loads(after["retrain"])["metrics"]["num_images"] == kept
    assert after["retrain.previous-1"] == before["retrain"]
    for name in STAGES[:4]:
        assert after[name] == before[name]


def test_interrupted_while_cleaning_it_goes_on_from_there(
    recipe: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill would leave it: the cleaner has learned from the source, and nothing more."""
    out = tmp_path / "run"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    settings = load_recipe(recipe, ())
    with monkeypatch.context() as context:
        context.setattr(adc, "adapt", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(settings, out, Mesh.single())
    assert sorted(manifests(out)) == sorted(STAGES[:4])
    before = manifests(out)
    learned = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert len(learned) == 2  # the backbone and the cleaner
    pipeline.run(settings, out, Mesh.single())
    after = manifests(out)
    assert sorted(after) == sorted(STAGES)
    assert {name: after[name] for name in before} == before
    assert {path: path.stat().st_mtime_ns for path in learned} == learned
    for name in ("clean_probability", "threshold", "kept"):
        with np.load(out / "clean/clean.npz") as one, np.load(finished / "clean/clean.npz") as two:
            np.testing.assert_array_equal(one[name], two[name])


def test_the_demo_compares_three_trainings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    numbers = {
        "synthetic.num_identities": NUM_CLASSES, "synthetic.size": 32,
        "synthetic.min_images": PER_CLASS, "synthetic.max_images": PER_CLASS,
        **{f"synthetic.{name}": list(value) if isinstance(value, tuple) else value
           for name, value in EASY.items()},
        "noise.structured": 0.2, "model.image_size": 32, "model.width": 8,
        "head.scale": 16, "head.cosine_margin": 0.1, "optimizer.learning_rate": 0.1,
        "train.batch_size": 32, "train.epochs": 8, "train.margin_warmup_epochs": 0,
        "train.evaluate_every": 8, "train.precision": "float32",
        "clean.pretrain.num_draws": 24, "clean.meta.num_rounds": 1, "clean.meta.num_steps": 4,
        "clean.adapter.num_draws": 2,
    }  # fmt: skip
    command("demo", "--out", tmp_path, *(f"{key}={value}" for key, value in numbers.items()))
    out = capfd.readouterr().out
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["noise"]["num_noise"] == round(0.2 * NUM_CLASSES * PER_CLASS)
    rows = [line.split("  ")[0] for line in out.splitlines() if line.startswith("pairs, ")]
    assert rows == ["pairs, noisy labels", "pairs, cleaned labels", "pairs, true labels"]
    assert sorted(rows) == sorted(found["verification"])
    seen = {name: json.loads(text)["metrics"] for name, text in manifests(tmp_path).items()}
    assert seen["train"]["num_images"] == seen["train_true"]["num_images"]
    # The demo moves what is dropped to where it more likely belongs than not.
    with np.load(tmp_path / "clean" / "clean.npz") as cleaned:
        moved = (cleaned["suggested_label"] >= 0) & (cleaned["suggested_probability"] >= 0.5)
        assert seen["retrain"]["num_images"] == np.count_nonzero(cleaned["kept"] | moved)
    page = (tmp_path / "report.html").read_text()
    assert page.index("noisy labels") < page.index("cleaned labels") < page.index("true labels")


def test_a_further_round_starts_from_the_labels_as_given(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    """`rounds=2` on a finished run: its first training is kept, the final cleaning is made anew."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = manifests(out)
    command("run", recipe, "--out", out, "rounds=2")
    first, after = manifests(out / "round_1"), manifests(out)
    assert sorted(first) == sorted(set(STAGES) - {"train", "evaluate"})
    assert after["train"] == before["train"]
    assert after["embed"] != before["embed"]
    read = {name: json.loads(text) for name, text in {**after, "first": first["clean"]}.items()}
    assert (
        read["clean"]["inputs"]["data"] == read["first"]["inputs"]["data"]
    )  # not round 1's labels
    assert read["clean"]["inputs"]["embedding"] != read["first"]["inputs"]["embedding"]
    # Round 1 is what the whole run was before, so it keeps the same images.
    for name in ("clean_probability", "kept"):
        with (
            np.load(out / "round_1" / "clean" / "clean.npz") as now,
            np.load(finished / "clean" / "clean.npz") as then,
        ):
            np.testing.assert_array_equal(now[name], then[name])
    sets = json.loads((out / "summary.json").read_text())["verification"]
    assert sorted(sets) == ["pairs, cleaned labels", "pairs, noisy labels", "pairs, round 1"]


def test_trainings_go_on_from_what_cleaned_their_labels(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    """`retrain.start=previous`: the weights before, half as long; and back to from scratch."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    again = ("run", recipe, "--out", out, "rounds=2", "retrain.length=0.5")
    command(*again, "retrain.start=previous")
    first, last = ({**manifests(folder)} for folder in (out / "round_1", out))
    for retrained, before in ((first, out / "train"), (last, out / "round_1" / "retrain")):
        manifest = json.loads(retrained["retrain"])
        assert Path(manifest["config"]["model"]["weights"]) == before
        fewer = NUM_CLASSES * PER_CLASS / manifest["metrics"]["num_images"]
        assert manifest["config"]["train"]["epochs"] == round(8 * fewer / 2)
        assert manifest["inputs"]["weights"] == fingerprint(before / "backbone.safetensors")
    command(*again, "retrain.start=previous")
    assert manifests(out) == last
    command(*again)
    assert "weights" not in json.loads(manifests(out)["retrain"])["inputs"]
    assert (out / "round_1" / "retrain.previous-1").is_dir()  # what went on is kept
