"""From the page to the next training: ten decisions, and what runs again for them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cleaned_run import STAGES, manifests
from helpers.cli import command
from helpers.reviews import Client

from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.review_journal import open_journal
from facetrain.review.review import serving

REVIEWED = "review/overlay.npz"


def decide_ten(run: Path) -> dict[int, tuple[int, bool]]:
    """Ten decisions through the page's server, each against the cleaner; row -> label and kept."""
    said: dict[int, tuple[int, bool]] = {}
    wanted = {"keep": 3, "drop": 4, "move": 3}
    with serving(run, 0) as server:
        client = Client(server.address)
        listed = client.get("api/identities")["identities"]
        for place, identity in enumerate(listed):
            one, other = identity["id"], listed[place - 1]["id"]
            for face in client.get(f"api/identity/{one}")["faces"]:
                row = face["row"]
                fits = [a for a, left in wanted.items() if left and face["kept"] != (a == "keep")]
                if row in said or not fits:
                    continue
                action = fits[0]
                wanted[action] -= 1
                client.post("api/decide", action=action, identity=one, rows=[row], to=other)
                said[row] = (other if action == "move" else one, action != "drop")
                break  # ten identities, a decision in each
    assert len(said) == 10
    return said


def in_use(recipe: Path, *overlays: Path) -> dict[int, int]:
    """Row -> class id of what a training with these overlays sees."""
    noise = recipe.parent / "noise" / "overlay.npz"
    data = FaceDataset.open(recipe.parent / "faces", [noise, *overlays])
    return dict(zip(data.row.tolist(), data.class_ids[data.label].tolist(), strict=True))


def after(said: dict[int, tuple[int, bool]], before: dict[int, int]) -> dict[int, int]:
    """What should be in use once these decisions stand over what was."""
    now = {row: label for row, label in before.items() if said.get(row, (0, True))[1]}
    return now | {row: label for row, (label, kept) in said.items() if kept}


def metrics(run: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifests(run)[stage])["metrics"]
    return found


def written(run: Path) -> dict[Path, int]:
    """When each file of the stages before the review's was written."""
    folders = [run / name for name in STAGES[:5]]
    return {p: p.stat().st_mtime_ns for f in folders for p in f.rglob("*") if p.is_file()}


def test_ten_decisions_run_only_what_depends_on_them(
    recipe: Path, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    first, files = manifests(run), written(run)
    cleaned = run / "clean" / "overlay.npz"
    said = decide_ten(run)
    assert manifests(run) == first  # a review changes no stage

    command("run", recipe, "--out", run)
    second = manifests(run)
    ran = {name for name in second if second[name] != first.get(name)}
    assert ran == {"retrain", "evaluate_retrain", "retrain.previous-1"}
    assert second["retrain.previous-1"] == first["retrain"]  # moved, not made
    assert written(run) == files
    assert "kept as retrain.previous-1" in capfd.readouterr().err
    wanted = after(said, in_use(recipe, cleaned))
    assert in_use(recipe, cleaned, run / REVIEWED) == wanted
    assert metrics(run, "retrain")["num_images"] == len(wanted)
    report = (run / "report.html").stat().st_mtime_ns
    assert report > max(path.stat().st_mtime_ns for path in run.glob("*/manifest.json"))

    command("run", recipe, "--out", run)  # nothing was decided since
    assert manifests(run) == second

    with serving(run, 0) as server:  # all taken back: the first training's labels again
        client = Client(server.address)
        for _ in said:
            client.post("api/undo")
    command("run", recipe, "--out", run)
    third = manifests(run)
    assert third["retrain.previous-2"] == second["retrain"]
    assert set(third) == {*first, "retrain.previous-2"}
    weights = "retrain/backbone.safetensors"
    assert (run / weights).read_bytes() == (finished / weights).read_bytes()
    assert "was trained on these labels and is back" in capfd.readouterr().err


def test_a_killed_review_and_an_unfinished_training(
    recipe: Path, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The journal counts, not the overlay beside it; and a begun training is not lost either."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    said = decide_ten(run)
    (run / REVIEWED).unlink()  # as a SIGKILL leaves it: journalled, not composed
    (run / "retrain" / "manifest.json").unlink()
    (run / "retrain" / "backbone.safetensors").unlink()
    command("run", recipe, "--out", run)
    assert "kept as retrain.previous-1" in capfd.readouterr().err
    assert list((run / "retrain.previous-1" / "checkpoints").glob("step_*"))
    wanted = after(said, in_use(recipe, run / "clean" / "overlay.npz"))
    assert metrics(run, "retrain")["num_images"] == len(wanted)


def test_train_takes_both_overlays(recipe: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    said = decide_ten(run)
    noise, cleaned = recipe.parent / "noise" / "overlay.npz", run / "clean" / "overlay.npz"
    dataset = FaceDataset.open(recipe.parent / "faces")
    journal = run / "review" / "journal.jsonl"
    spare = next(row for row in in_use(recipe, cleaned) if row not in said)
    with open_journal(journal, dataset.base_fingerprint, dataset.num_rows) as writer:  # and killed
        entry = {"action": "drop", "rows": [spare], "label": 0, "merged": -1}
        writer.append(entry)
    overlays = f"data.overlay=[{noise},{cleaned},{run / REVIEWED}]"
    command("train", recipe, "--out", tmp_path / "again", overlays, "train.max_steps=1")
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_text())
    wanted = after(said | {spare: (0, False)}, in_use(recipe, cleaned))
    assert manifest["metrics"]["num_images"] == len(wanted)


def test_a_new_cleaning_leaves_what_a_person_decided(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    """Reviewed labels go into the embedding, the graph and the cleaner, and its overlay over them
    changes none of the ten."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    said = decide_ten(run)
    reviewed, noise = run / REVIEWED, recipe.parent / "noise" / "overlay.npz"
    overlays, again = f"data.overlay=[{noise},{reviewed}]", tmp_path / "again"
    command("embed", recipe, "--out", again / "embed", "--backbone", run / "train", overlays)
    command("graph", recipe, "--out", again / "graph", overlays)
    command("clean", recipe, "--out", again / "clean", overlays, "clean.apply_suggestions=true")
    opinion = LabelOverlay.load(again / "clean" / "overlay.npz")
    before, now = in_use(recipe, reviewed), in_use(recipe, reviewed, again / "clean")
    for row, (label, kept) in said.items():
        assert opinion.source[row] == 0
        assert opinion.label[row] == -1
        assert now.get(row) == (label if kept else None)
    assert set(now) < set(before)  # it cleans the rest; nothing that was dropped comes back
    with np.load(again / "clean" / "clean.npz") as arrays:
        probability = dict(zip(before, arrays["clean_probability"].tolist(), strict=True))
        kept_rows = dict(zip(before, arrays["kept"].tolist(), strict=True))
    assert {probability[row] for row, (_, kept) in said.items() if kept} == {1.0}
    assert all(kept_rows[row] for row, (_, kept) in said.items() if kept)
