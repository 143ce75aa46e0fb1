"""Runs that are under way, stopped, set aside or in rounds, as the report tells them."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.manifest import change_manifest
from helpers.reports import write_run

from facetrain.core.artifact import write_manifest
from facetrain.core.config import Config
from facetrain.core.errors import DataError
from facetrain.metrics.verification import verification
from facetrain.report.overview import pipeline_strip
from facetrain.report.page import write_report
from facetrain.report.run import Run, read_stages


class Settings(Config):
    bins: tuple[str, ...] = ()


def write_log(stage: Path, *losses: float) -> None:
    stage.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"step": 50 * n, "epoch": n / 2, "loss": loss, "learning_rate": 0.1})
        for n, loss in enumerate(losses, 1)
    ]
    (stage / "log.jsonl").write_text("\n".join(lines) + "\n")


def finish(folder: Path, stage: str, second: int, metrics: dict[str, object] | None = None) -> None:
    """A stage that took 10 seconds and ended at `second`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, stage, Settings(), {}, metrics or {}, started=0, world_size=1)
    change_manifest(folder, lambda manifest: manifest.update(seconds=10.0))
    os.utime(folder / "manifest.json", (second, second))


def test_a_training_under_way_is_told_as_far_as_it_came(tmp_path: Path) -> None:
    write_log(tmp_path / "train", 9.0, 8.0, 7.25)
    (tmp_path / "train" / "checkpoints" / "step_0000000100").mkdir(parents=True)
    (stage,) = read_stages(tmp_path)
    assert (stage.name, stage.kind, stage.status, stage.seconds) == (
        "train", "train", "unfinished", None,
    )  # fmt: skip
    assert stage.so_far().startswith(
        "step 150, epoch 1.50, loss 7.25, continues from step 100, last written 20"
    )
    page = write_report(tmp_path).read_text()
    assert "Not finished: train." in page
    assert "epoch 1.50" in page
    assert page.count("<figure ") == 1  # its curves so far
    assert (tmp_path / "pictures" / "training.png").is_file()


def test_finished_stages_first_then_what_is_under_way(tmp_path: Path) -> None:
    finish(tmp_path / "train", "train", 1000)
    finish(tmp_path / "evaluate", "evaluate", 2000)
    (tmp_path / "embed").mkdir()  # a stage makes its folder, then works
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes").mkdir()
    assert [(one.name, one.status) for one in read_stages(tmp_path)] == [
        ("train", "finished"), ("evaluate", "finished"), ("embed", "unfinished"),
    ]  # fmt: skip
    assert [one.path.name for one in Run(tmp_path).finished] == ["train", "evaluate"]
    page = write_report(tmp_path).read_text()
    assert "begun, last written" in page


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match=r"no finished stage \(manifest\.json\)"):
        read_stages(tmp_path)


def test_working_files_of_a_stage_are_no_stages(tmp_path: Path) -> None:
    finish(tmp_path, "clean", 1000)
    (tmp_path / "graph").mkdir()
    (tmp_path / "ijbc").mkdir()
    finish(tmp_path / "ijbc", "ijb", 2000)
    assert [one.name for one in read_stages(tmp_path)] == ["clean", "ijbc"]


def test_a_training_set_aside_does_not_count(tmp_path: Path) -> None:
    finish(tmp_path / "train", "train", 1000)
    finish(tmp_path / "retrain.previous-1", "train", 2000)
    finish(tmp_path / "retrain", "train", 3000)
    assert [one.path.name for one in Run(tmp_path).finished] == ["train", "retrain"]
    page = write_report(tmp_path).read_text()
    assert "set aside" in page
    assert "20.0 s" in page  # of the two that count
    assert "30.0 s" not in page


def test_the_strip_shows_each_share(tmp_path: Path) -> None:
    for second, name in ((1000, "train"), (2000, "embed"), (3000, "graph")):
        finish(tmp_path / name, name, second)
    stages = read_stages(tmp_path)
    assert [piece.share for piece in pipeline_strip(stages)] == ["33.3 %"] * 3
    grow = [piece.grow for piece in pipeline_strip(stages)]
    assert grow[0] == grow[1] == grow[2] >= 1


def numbers(seed: int, margin: float) -> dict[str, object]:
    generator = np.random.default_rng(seed)
    same = np.arange(200) % 2 == 0
    return verification(generator.uniform(0, 2, 200) + margin * ~same, same).numbers()


@pytest.mark.slow
def test_rounds_are_rows_of_the_tables(tmp_path: Path) -> None:
    """Round 1 decides as the final cleaning does; each training has its evaluation."""
    run = write_run(tmp_path)
    (run / "round_1" / "clean").mkdir(parents=True)
    for name in ("clean.npz", "overlay.npz"):
        (run / "round_1" / "clean" / name).write_bytes((run / "clean" / name).read_bytes())
    finish(run / "round_1" / "clean", "clean", 500, {"num_images": 12, "num_dropped": 2})
    accuracy = {}
    same = np.arange(200) % 2 == 0
    for order, folder in enumerate(("evaluate", "round_1/evaluate_retrain", "evaluate_retrain")):
        found = numbers(order, order / 2)
        accuracy[folder] = f"{found['accuracy']:.4f}"
        finish(run / folder, "evaluate", 600 + order, {"lfw": found})
        (run / folder / "distances").mkdir()
        distance = np.random.default_rng(order).uniform(0, 2, 200) + order / 2 * ~same
        np.savez(run / folder / "distances" / "lfw.npz", distance=distance, same=same)
    page = write_report(run).read_text()
    rows = re.findall(r"<tr><td>lfw, ([^<]+)</td><td>200</td><td>([\d.]+) ±", page)
    assert rows == [
        ("noisy labels", accuracy["evaluate"]),
        ("round 1", accuracy["round_1/evaluate_retrain"]),
        ("cleaned labels", accuracy["evaluate_retrain"]),
    ]
    found = re.findall(r"<tr><td>(round_1/clean|clean)</td><td>12</td><td>2</td><td>1</td>", page)
    assert sorted(found) == ["clean", "round_1/clean"]  # 2 noisy images, 1 found, by each
    assert (run / "pictures" / "dropped_round_1_clean.png").is_file()


def test_ijb_numbers_are_told_with_their_conventions(tmp_path: Path) -> None:
    tars = {f"1e-{n}": 0.99 - n / 100 for n in range(1, 7)}
    gallery = {
        "rank_1": 0.91, "rank_5": 0.95, "rank_10": 0.97,
        "tpir_at_fpir": {"1e-1": 0.8, "1e-2": None}, "num_mated_probes": 5, "num_unmated_probes": 9,
    }  # fmt: skip
    found = {
        "accuracy": None, "accuracy_std": None, "auc": 0.99, "eer": 0.02,
        "tar_at_far": tars, "tar_at_far_nearest": {**tars, "1e-4": 0.9512},
        "tar_at_far_interpolated": tars, "num_pairs": 15_658_489, "num_impostor_pairs": 15_638_932,
        "num_templates": 23_124, "num_images": 469_375, "identification": {"G1": gallery},
    }  # fmt: skip
    stage = tmp_path / "evaluate_ijbc"
    finish(stage, "ijb", 1000, {"ijbc": found})
    np.savez(stage / "roc.npz", far=np.array([0, 1e-6, 1e-3, 1]), tar=np.array([0, 0.9, 0.96, 1]))
    page = write_report(tmp_path).read_text()
    assert "95.00 %" in page  # TAR at FAR 1e-4, among the first numbers
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    rows = {row[1]: row for row in cells if len(row) > 9}
    assert rows["at most the FAR"][:5] == ["ijbc", "at most the FAR", "0.9300", "0.9400", "0.9500"]
    assert rows["nearest point"][4] == "0.9512"
    assert rows["at most the FAR"][-2:] == ["15,658,489", "23,124"]
    assert ["ijbc, G1", "0.9100", "0.9500", "0.9700", "0.8000", "-"] in cells
    assert (tmp_path / "pictures" / "roc.png").is_file()
