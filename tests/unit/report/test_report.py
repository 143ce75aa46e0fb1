"""Tables, pictures and the report: what they say, read back from what was written."""

import base64
import json
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.cbook import is_math_text

from facetrain.core.artifact import write_manifest
from facetrain.core.config import Config
from facetrain.core.errors import DataError
from facetrain.data.evaluation.verification_bin import VerificationSet, write_bin
from facetrain.evaluate.evaluate import EvaluateConfig
from facetrain.metrics.verification import verification
from facetrain.report.page import write_report
from facetrain.report.style import save_figure
from facetrain.report.tables import evaluation_text, format_table, verification_table
from facetrain.report.training_figures import training_curves_figure
from facetrain.report.verification_figures import (
    Curve,
    det_figure,
    det_points,
    fold_figure,
    hardest_pairs,
    hardest_pairs_figure,
    roc_figure,
)


class Settings(Config):
    name: str = "<script>alert(1)</script>"


def test_table_columns_line_up() -> None:
    table = format_table(["set", "pairs"], [["lfw", "6000"], ["agedb_30", "7"]])
    assert table.split("\n") == [
        "set       pairs",
        "--------  -----",
        "lfw        6000",
        "agedb_30      7",
    ]


def test_verification_table_says_what_cannot_be_measured() -> None:
    generator = np.random.default_rng(0)
    numbers = {}
    for name, num_pairs in (("big", 400), ("small", 20)):
        same = np.arange(num_pairs) % 2 == 0
        distance = generator.uniform(0, 4, num_pairs)
        numbers[name] = verification(distance, same).numbers()
    header, _, big, small = verification_table(numbers).split("\n")
    assert header.split() == ["set", "pairs", "accuracy", "TAR@1e-1", "TAR@1e-2", "EER", "AUC"]
    accuracy, spread = numbers["big"]["accuracy"], numbers["big"]["accuracy_std"]
    assert big.split()[:5] == ["big", "400", f"{accuracy:.4f}", "±", f"{spread:.4f}"]
    assert small.split()[6] == "-"


def test_too_few_pairs_for_any_far_leave_no_table_of_thresholds() -> None:
    few = {"few": verification(np.arange(8.0) / 2, np.arange(8) % 2 == 0, num_folds=2).numbers()}
    assert evaluation_text(few) == verification_table(few)
    assert "accept above cosine" not in evaluation_text(few)


def test_roc_curve_goes_through_its_points() -> None:
    """Ten same pairs, all nearer than the second impostor: TAR is 1 from one false accept on."""
    distance = np.concatenate((np.full(5, 0.1), np.full(5, 1.05), 1 + np.arange(10) / 10))
    curve = Curve.of(distance, np.arange(20) < 10)
    assert curve is not None
    figure = roc_figure({"val": curve})
    assert figure is not None
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_xdata())[0] == 0.1  # the smallest FAR that can be measured
    assert set(np.asarray(line.get_ydata()).tolist()) == {1.0}
    assert line.get_drawstyle() == "steps-post"
    assert Curve.of(distance, np.ones(20, bool)) is None
    assert roc_figure({}) is None


def test_det_points_by_hand() -> None:
    """Ten pairs of each kind in turn: after k accepts of each, k / 10 false and 1 - k / 10 missed.

    Quantiles of the normal distribution from a table: 0.1 at -1.281552, 0.3 at -0.524401.
    """
    distance = np.arange(20) / 10
    same = np.arange(20) % 2 == 0  # the nearest pair is of one person
    curve = Curve.of(distance, same)
    assert curve is not None
    x, y = det_points(curve)
    points = {(round(float(a), 6), round(float(b), 6)) for a, b in zip(x, y, strict=True)}
    assert (-1.281552, 0.841621) in points  # 1 of 10 false accepts, 2 of 10 accepted: 80 % missed
    assert (-0.524401, 0.253347) in points  # 3 false accepts, 4 accepted: 60 % missed
    assert np.isfinite([x, y]).all()
    figure = det_figure({"val": curve})
    assert figure is not None
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), np.stack([x, y], 1))
    parted = Curve.of(np.arange(20.0), np.arange(20) < 10)  # never an error of both kinds
    assert parted is not None
    assert det_figure({"val": parted}) is None


def test_every_fold_is_a_dot() -> None:
    numbers = {"val": {"accuracy": 0.8, "accuracy_std": 0.1, "fold_accuracy": [0.6, 0.8, 1.0]}}
    figure = fold_figure(numbers)
    assert figure is not None
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0.6, 0], [0.8, 0], [1.0, 0]]
    (bar,) = figure.axes[0].collections
    np.testing.assert_allclose(bar.get_segments()[0][:, 0], [0.7, 0.9])
    assert fold_figure({"ijbc": {"accuracy": None}}) is None


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$", "a$b"])
def test_a_name_is_never_read_as_a_formula(name: str, tmp_path: Path) -> None:
    """matplotlib would set what stands between two $ as mathematics, or fail at it."""
    curve = Curve.of(np.arange(20) / 10, np.arange(20) % 2 == 0)
    assert curve is not None
    numbers = {"accuracy": 0.8, "accuracy_std": 0.1, "fold_accuracy": [0.7, 0.9]}
    entries = [{"step": s, "loss": 9.0 - s, "learning_rate": 0.1} for s in (1, 2, 3)]
    entries.append({"step": 3, "evaluation": {name: {"accuracy": 0.9}}})
    folds = fold_figure({name: numbers})
    assert folds is not None
    figures = [roc_figure({name: curve}), det_figure({name: curve}), folds]
    for figure in (*figures, training_curves_figure(entries)):
        assert figure is not None
        save_figure(figure, tmp_path / "figure.png")
    shown = folds.axes[0].get_yticklabels()[0].get_text()
    assert not is_math_text(shown)
    assert shown.replace("\\$", "$") == name


def test_hardest_pairs_by_hand() -> None:
    distance = np.array([0.5, 3.0, 1.0, 0.2, 2.0])
    same = np.array([True, True, False, False, True])
    assert hardest_pairs(distance, same, 2) == ([1, 4], [3, 2])
    assert hardest_pairs(distance, same, 9) == ([1, 4, 0], [3, 2])


def write_pairs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ten grey pairs, and distances under which pairs 0 and 9 are judged wrongly at 1.0."""
    encoded = [
        cv2.imencode(".png", np.full((16, 16, 3), 10 * i, np.uint8))[1].tobytes() for i in range(20)
    ]
    same = np.arange(10) < 5
    write_bin(path, encoded, same)
    distance = np.where(same, 0.5, 1.5)
    distance[0], distance[9] = 1.8, 0.3
    return distance, same


def test_wrong_pairs_are_marked(tmp_path: Path) -> None:
    distance, _ = write_pairs(tmp_path / "val.bin")
    pairs = VerificationSet.open(tmp_path / "val.bin")

    def wrong(threshold: float) -> list[str]:
        figure = hardest_pairs_figure(pairs, distance, threshold, count=4)
        titles = [axes.title for half in figure.subfigs for axes in half.axes]
        return [one.get_text().split()[1] for one in titles if one.get_color() == "#c4372b"]

    assert wrong(1.0) == ["0", "9"]
    assert wrong(2.0) == ["9", "5", "6", "7"]  # now every same pair is right, every other wrong


def make_run(run: Path) -> None:
    (run / "train").mkdir(parents=True)
    entries = [
        {"step": s, "epoch": s / 2, "loss": 9.0 - s, "learning_rate": 0.1} for s in (1, 2, 3)
    ]
    lines = [json.dumps(entry) + "\n" for entry in entries]
    (run / "train" / "log.jsonl").write_text("".join(lines) + '{"step": 4, "lo')
    metrics = {"loss": 1.5, "num_images": 8309, "num_classes": 3802}
    write_manifest(run / "train", "train", Settings(), {}, metrics, started=0, world_size=2)
    distance, same = write_pairs(run / "val.bin")
    stage = run / "evaluate"
    (stage / "distances").mkdir(parents=True)
    np.savez(stage / "distances" / "val.npz", distance=distance, same=same)
    numbers = {"val": verification(distance, same).numbers()}
    config = EvaluateConfig(bins=(run / "val.bin",))
    write_manifest(stage, "evaluate", config, {}, numbers, started=0, world_size=2)


def test_report_is_one_file_with_numbers_pictures_and_config(tmp_path: Path) -> None:
    run = tmp_path / "first <run>"
    make_run(run)
    page = write_report(run).read_text(encoding="utf-8")
    # Accuracy by hand: pairs 0 and 9 are wrong at every useful threshold, in a fold of one each.
    assert "80.00 %" in page
    assert "0.8000 ± 0.4000" in page
    assert "8,309" in page
    found = re.findall(r"image/(\w+);base64,([^\"]+)\"", page)
    kinds, pictures = zip(*((kind, base64.b64decode(text)) for kind, text in found), strict=True)
    names = ("training.png", "roc.png", "det.png", "folds.png", "hardest_val.png")
    assert kinds == ("png", "png", "png", "png", "jpeg")
    files = [(run / "pictures" / name).read_bytes() for name in names]
    assert list(pictures[:4]) == files[:4]
    # Faces are smaller as JPEG, and the same faces.
    drawn, shown = (
        cv2.imdecode(np.frombuffer(one, np.uint8), 1) for one in (files[4], pictures[4])
    )
    assert np.abs(drawn.astype(int) - shown).mean() < 3  # grey values
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "first &lt;run&gt;" in page
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page)  # nothing is fetched
    links, anchors = re.findall(r'href="#([^"]+)"', page), re.findall(r' id="([^"]+)"', page)
    assert set(links) <= set(anchors)
    assert {"overview", "training", "verification", "stages", "config-train"} <= set(links)
    assert "cleaning" not in anchors  # nothing was cleaned: no empty section


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux")
def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    """Of such a name OpenCV's reader dies by a signal, and UTF-8 cannot hold it."""
    run = tmp_path / os.fsdecode(b"caf\xe9")
    make_run(run)
    assert "caf\\udce9" in write_report(run).read_text(encoding="utf-8")


def test_report_without_a_finished_stage_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no finished stage \(manifest\.json\)"):
        write_report(tmp_path)


def test_report_lives_without_the_verification_file(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "val.bin").unlink()
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert page.count("<figure ") == 4
