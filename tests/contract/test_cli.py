"""The command line as scripts rely on it: files, keys, exit codes, messages."""

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.cli import Call, command

from facetrain.core.config import load_config
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.models.weights import load_backbone
from facetrain.recipe import Recipe


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `facetrain run`."""
    out = tmp_path_factory.mktemp("run")
    command("run", recipe, "--out", out)
    return out


def test_run_leaves_what_scripts_read(trained: Path, faces: Path) -> None:
    assert (trained / "train" / "backbone.safetensors").is_file()
    manifest = json.loads((trained / "train" / "manifest.json").read_text())
    assert manifest["metrics"]["num_classes"] == 8
    assert manifest["metrics"]["steps"] == 8  # 2 epochs of 48 images, 12 a step
    assert manifest["world_size"] == 1
    embedding = np.load(trained / "embed" / "embedding.npy")
    assert embedding.shape == (48, 16)
    assert np.allclose(np.linalg.norm(embedding.astype(np.float32), axis=1), 1, atol=2e-3)
    numbers = json.loads((trained / "evaluate" / "verification.json").read_text())
    assert list(numbers) == ["pairs"]
    page = (trained / "report.html").read_text()
    assert f"{100 * numbers['pairs']['accuracy']:.2f}" in page
    assert "://" not in page  # self-contained


def test_a_finished_run_is_skipped_and_a_changed_one_is_not(
    trained: Path, recipe: Path, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    manifests = {path: path.read_text() for path in run.rglob("manifest.json")}
    assert call("run", recipe, "--out", run)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path: path.read_text() for path in manifests} == manifests
    # Only the stage whose config changed runs again.
    assert call("run", recipe, "--out", run, "evaluate.flip=false")[0] == 0
    changed = [path.parent.name for path in manifests if path.read_text() != manifests[path]]
    assert changed == ["evaluate"]


def test_train_is_deterministic_and_the_seed_matters(
    recipe: Path, trained: Path, tmp_path: Path, call: Call
) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    assert call("train", recipe, "--out", again)[0] == 0
    assert call("train", recipe, "--out", other, "seed=2")[0] == 0
    weights = (again / "backbone.safetensors").read_bytes()
    assert weights == (trained / "train" / "backbone.safetensors").read_bytes()
    assert weights != (other / "backbone.safetensors").read_bytes()


def test_a_longer_run_continues_a_shorter_one(
    recipe: Path, trained: Path, tmp_path: Path, call: Call
) -> None:
    assert call("train", recipe, "--out", tmp_path, "train.max_steps=3")[0] == 0
    for changed in ("train.clip_norm=1", "train.margin_warmup_epochs=1", "train.epochs=3"):
        code, _, err = call("train", recipe, "--out", tmp_path, changed)
        assert code == 2
        assert f"holds a run with another {changed.partition('=')[0]};" in err
    code, _, err = call("train", recipe, "--out", tmp_path)
    assert code == 0
    assert "resuming" in err
    assert "at step 3 of 8" in err
    weights = (tmp_path / "backbone.safetensors").read_bytes()
    assert weights == (trained / "train" / "backbone.safetensors").read_bytes()


def test_evaluate_writes_the_contract_keys(
    trained: Path, faces: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "numbers.json"
    stdout = call.done(
        "evaluate", "--backbone", trained / "train", "--bin", faces / "pairs.bin", "--json", out
    )
    assert "accuracy" in stdout
    numbers = json.loads(out.read_text())["pairs"]
    stage = json.loads((trained / "evaluate" / "verification.json").read_text())["pairs"]
    assert numbers == stage
    assert {"accuracy", "accuracy_std", "num_pairs", "tar_at_far"} <= numbers.keys()
    assert list(numbers["tar_at_far"]) == ["1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6"]
    assert numbers["num_pairs"] == 40
    assert numbers["tar_at_far"]["1e-3"] is None  # 20 impostor pairs cannot tell


def test_evaluate_into_a_folder_draws_the_roc(
    trained: Path, recipe: Path, tmp_path: Path, call: Call
) -> None:
    call.done("evaluate", recipe, "--backbone", trained / "train", "--out", tmp_path)
    picture = cv2.imread(str(tmp_path / "pictures" / "roc.png"))
    assert picture is not None
    assert picture.std() > 1  # not blank
    assert (tmp_path / "verification.json").is_file()


def test_embed_takes_the_backbone_and_the_overlay(
    trained: Path, recipe: Path, faces: Path, tmp_path: Path, call: Call
) -> None:
    dataset = FaceDataset.open(faces)
    kept = np.ones(dataset.num_rows, bool)
    kept[dataset.label == 3] = False
    overlay = tmp_path / "overlay.npz"
    LabelOverlay.make(dataset.class_ids[dataset.label], kept).save(overlay)
    out = tmp_path / "embed"
    call.done(
        "embed", recipe, "--out", out, "--backbone", trained / "train", f"data.overlay={overlay}"
    )
    whole = np.load(trained / "embed" / "embedding.npy")
    assert np.array_equal(np.load(out / "embedding.npy"), whole[kept])
    assert sorted(set(np.load(out / "label.npy").tolist())) == list(range(7))  # dense again


def test_export_and_back(trained: Path, tmp_path: Path, call: Call) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    stdout = call.done("export", trained, "--format", "onnx", "--out", out)
    assert "onnxruntime agrees" in stdout
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    ours, theirs = load_backbone(trained / "train")(image), load_backbone(out)(image)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_pack_and_inspect(tmp_path: Path, call: Call) -> None:
    source = tmp_path / "people"
    image = np.full((120, 120, 3), 128, np.uint8)
    for name, count in (("ann", 2), ("bob", 3)):
        (source / name).mkdir(parents=True)
        for number in range(count):
            cv2.circle(image, (60, 60), 10 + number, (number, 200, 50), -1)
            cv2.imwrite(str(source / name / f"{number}.jpg"), image)
    (source / "bob" / "broken.jpg").write_bytes(b"not an image")
    stdout = call.done("pack", source, tmp_path / "set")
    assert "num_images: 5" in stdout
    call.done("inspect", tmp_path / "set", "--json", tmp_path / "counts.json")
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert (counts["num_images"], counts["num_identities"]) == (5, 2)
    assert counts["layout"] == "header"
    assert counts["unreadable"] == []


def test_lfw_is_counted(lfw: Path, tmp_path: Path, call: Call) -> None:
    call.done("inspect", lfw / "train.rec", "--json", tmp_path / "counts.json")
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert (counts["num_images"], counts["num_identities"]) == (8309, 3802)
    assert counts["unreadable"] == []


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def bad_bin(folder: Path) -> Path:
    path = folder / "hostile.bin"
    path.write_bytes(pickle.dumps(([Hostile()], [True])))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "{tmp}/none.yaml", "--out", "{tmp}/o"), "there is no such file"),
        (("train", "{recipe}", "--out", "{tmp}/o", "sed=1"), "did you mean 'seed'?"),
        (("train", "{recipe}", "--out", "{tmp}/o", "seed=x"), "seed='x'"),
        (("train", "{recipe}", "--out", "{tmp}/o", "data.path={tmp}/no"), "data.path must exist"),
        (("train", "{recipe}", "--out", "{tmp}/o", "evaluate.bins={tmp}/no"), "evaluate.bins"),
        (("train", "{recipe}", "--out", "{tmp}/o", "train.batch_size=999"), "999"),
        (("train", "{recipe}", "--out", "{tmp}/o", "model.name=resnet"), "iresnet50"),
        (("evaluate", "--backbone", "{tmp}", "--bin", "{faces}/pairs.bin"), "backbone.safetensors"),
        (("evaluate", "--backbone", "{backbone}", "--bin", "{hostile}"), "eval"),
        (("evaluate", "--backbone", "{backbone}"), "--bin"),
        (("inspect", "{tmp}/none.rec"), "none.rec"),
        (("export", "{backbone}", "--format", "tflite", "--out", "{tmp}/m"), "onnx"),
        (("export", "{backbone}", "--format", "pth", "--out", "{tmp}/m"), "small"),
        (("report", "{tmp}"), "finished stage"),
        (("pack", "{tmp}/nowhere", "{tmp}/o"), "nowhere"),
        (("train", "{recipe}"), "--out"),
        (("train", "{backbone}/backbone.safetensors", "--out", "{tmp}/o"), "must be a YAML recipe"),
        (("train", "{recipe}", "--out", "{tmp}/o", "train.accumulate=12"), "at least 2 images"),
        (
            ("train", "{recipe}", "--out", "{tmp}/o", "train.batch_size=13", "train.accumulate=4"),
            "with 1;",
        ),
        (("train", "{recipe}", "--out", "{tmp}/o", "model.width=10000000000"), "less than or eq"),
        (("train", "{recipe}", "--out", "{tmp}/o", "optimizer.learning_rate=.inf"), "finite"),
        (("train", "{recipe}", "--out", "{tmp}/o", "data.workers=5000"), "less than or equal"),
        (("config", "trian.batch_size"), "did you mean 'train.batch_size'?"),
        (("trian",), "trian"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(
    arguments: tuple[str, ...],
    message: str,
    call: Call,
    recipe: Path,
    faces: Path,
    trained: Path,
    tmp_path: Path,
) -> None:
    places = {"tmp": tmp_path, "recipe": recipe, "faces": faces, "backbone": trained / "train"}
    places["hostile"] = bad_bin(tmp_path)
    assert message in call.refused(*(argument.format(**places) for argument in arguments))


def test_every_shipped_recipe_is_valid() -> None:
    configs = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    assert len(configs) >= 4
    for path in configs:
        load_config(Recipe, path)
        header = path.read_text().split("\nseed:")[0]
        for word in ("Data:", "Cost:", "Expected:", "Command:"):
            assert word in header, f"{path.name} says nothing of {word}"


def test_help_needs_no_torch_and_names_every_command(call: Call) -> None:
    stdout = call.done("--help")
    names = ["demo", "pack", "inspect", "run", "train", "embed", "graph", "clean", "evaluate"]
    names += ["report", "export"]
    places = [stdout.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)


def test_help_keeps_its_blocks(call: Call) -> None:
    """A mark of the formatter that is not obeyed stands in the text, and its block is one line."""
    from facetrain.cli import cli

    for name in cli.commands:
        assert "\\b" not in call.done(name, "--help")
    assert "\n    clean DATA --backbone B --out DIR " in call.done("clean", "--help")
