"""`facetrain variations` and `facetrain finetune` from the command line."""

import json
from pathlib import Path

import pytest
from helpers.cli import Call

from facetrain.data.synthetic import SyntheticConfig, write_synthetic


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six other people with four images each."""
    folder = tmp_path_factory.mktemp("meta")
    config = SyntheticConfig(
        num_identities=6, first_identity=40, min_images=4, max_images=4, size=32
    )
    write_synthetic(folder, config, quiet=True)
    return folder


def test_variations_then_train_then_finetune_then_report(
    faces: Path, recipe: Path, meta: Path, tmp_path: Path, call: Call
) -> None:
    for data in (faces, meta):
        status, text, _ = call("variations", data)
        assert status == 0
        assert "pose: <-60 " in text
    assert call("train", recipe, "--out", tmp_path / "train", "train.epochs=1")[0] == 0
    section = f"finetune={{meta: {{path: {meta}, workers: 0}}, head_epochs: 1}}"
    out = tmp_path / "mvcom"
    text = call.done("finetune", recipe, "--out", out, section, "train.epochs=1")
    assert "num_meta_identities: 6" in text
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stage"] == "finetune"
    assert set(manifest["metrics"]["variation_accuracy"]) == {"pose", "occlusion", "blur", "group"}
    assert "pairs" in manifest["metrics"]["evaluation"]
    assert (out / "backbone.safetensors").is_file()
    assert call("report", tmp_path)[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "faces from the smallest margin to the largest" in page


def test_bad_input_is_a_message_and_status_2(
    faces: Path, recipe: Path, tmp_path: Path, call: Call
) -> None:
    assert "needs a section finetune" in call.refused(
        "finetune", recipe, "--out", tmp_path / "x", "--from", tmp_path
    )
    section = f"finetune={{meta: {{path: {faces}}}}}"
    assert "--from: must be the folder of a finished stage train" in call.refused(
        "finetune", recipe, "--out", tmp_path / "x", section
    )
    call.refused("variations", faces / "pairs.bin")
