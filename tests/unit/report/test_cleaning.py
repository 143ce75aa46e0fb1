"""What a cleaning is told to have found, and its pictures, read back from what was written."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reports import LABEL, RESULT, TRUE_LABEL, grey, opened, write_run
from matplotlib.colors import to_rgba

from facetrain.core.artifact import Artifact
from facetrain.core.errors import DataError
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import Reason
from facetrain.data.dataset import DataConfig
from facetrain.data.overlay import LabelOverlay
from facetrain.report.cleaning import calibration, noise_numbers, noise_rows
from facetrain.report.cleaning_figures import (
    CLEAN_COLOUR,
    NOISE_COLOUR,
    RIGHT_COLOUR,
    WRONG_COLOUR,
    Faces,
    Sheet,
    class_noise_figure,
    clean_probability_figure,
    reliability_figure,
    sheet_figure,
)
from facetrain.report.page import write_report
from facetrain.report.tables import compare


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def test_noise_numbers_by_hand(run_dir: Path) -> None:
    numbers = noise_numbers(opened(run_dir))
    assert numbers is not None
    expected = {
        "num_images": 12, "num_noise": 2, "num_found": 1, "num_missed": 1,
        "num_wrongly_dropped": 1, "precision": 0.5, "recall": 0.5, "f1": 0.5,
        "num_suggested": 2, "num_suggested_right": 1,
    }  # fmt: skip
    assert {name: numbers[name] for name in expected} == expected
    header, rows = noise_rows(numbers)
    cells = dict(zip(header, rows[0], strict=True))
    assert (cells["found"], cells["missed"], cells["wrongly dropped"]) == ("1", "1", "1")
    assert (cells["F1"], cells["suggested"], cells["rightly"]) == ("0.5000", "2", "1")


def test_without_a_truth_nothing_is_said(run_dir: Path) -> None:
    (run_dir.parent / "noise" / "truth.npz").unlink()
    cleaned = opened(run_dir)
    assert cleaned.is_clean is None
    assert noise_numbers(cleaned) is None
    page = write_report(run_dir).read_text()
    assert "Cleaning" in page
    assert "wrongly dropped" not in page
    assert not (run_dir / "pictures" / "class_noise.png").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"true_label": np.zeros(5, np.int64)}, "must cover the 12 images"),
        ({"other": np.zeros(12)}, "with true_label"),
    ],
)
def test_a_foreign_truth_is_refused(
    content: dict[str, np.ndarray], message: str, run_dir: Path
) -> None:
    np.savez(run_dir.parent / "noise" / "truth.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        opened(run_dir)


def test_a_cleaning_of_other_images_is_refused(run_dir: Path) -> None:
    data = DataConfig(path=run_dir.parent / "faces")
    kept = np.arange(12) > 0
    LabelOverlay.make(TRUE_LABEL, kept).save(run_dir.parent / "fewer.npz")
    fewer = data.model_copy(update={"overlay": (run_dir.parent / "fewer.npz",)})
    with pytest.raises(DataError, match="must be of the 11 images"):
        CleanedSet.open(run_dir / "clean", fewer)


def shown(drawn: Any) -> int:
    """Which image stands in a cell of a sheet: image n is grey 20 n."""
    return int(drawn.get_array()[0, 0, 0]) // 20


def cells(sheet: Sheet) -> list[list[list[int]]]:
    return [[[face.image for face in column] for column in row] for row in sheet.rows]


def changed(run_dir: Path, **change: Any) -> CleanedSet:
    dataclasses.replace(RESULT, **change).save(run_dir / "clean" / "clean.npz")
    return opened(run_dir)


def test_wrong_labels_stand_between_where_they_are_and_belong(run_dir: Path) -> None:
    """Image 3 of class 10 belongs to 20, rightly; 11 of class 30 to 10, wrongly; both at 0.9."""
    sheet = Faces(opened(run_dir)).wrong_labels()
    # Beside it the kept images of the two classes, the surest first.
    assert cells(sheet) == [[[3], [2, 0, 1], [4, 5, 6, 7]], [[11], [8, 9, 10], [2, 0, 1]]]
    assert [row[0][0].frame for row in sheet.rows] == [RIGHT_COLOUR, WRONG_COLOUR]
    assert [row[2][0].caption for row in sheet.rows] == ["class 20", "class 10"]
    (run_dir.parent / "noise" / "truth.npz").unlink()
    assert {row[0][0].frame for row in Faces(opened(run_dir)).wrong_labels().rows} == {""}


def test_a_sheet_is_drawn_as_it_was_chosen(run_dir: Path) -> None:
    sheet = Faces(opened(run_dir)).wrong_labels()
    figure = sheet_figure(sheet, grey)
    (axes,) = figure.axes
    faces = [n for row in cells(sheet) for c in row for n in c]
    assert [shown(drawn) for drawn in axes.images] == faces
    left, right, bottom, top = np.array([drawn.get_extent() for drawn in axes.images]).T
    at = {(x, y): shown(one) for x, y, one in zip(left, bottom, axes.images, strict=True)}
    frames = {at[patch.get_xy()]: patch.get_edgecolor() for patch in axes.patches}
    assert frames == {3: to_rgba(RIGHT_COLOUR), 11: to_rgba(WRONG_COLOUR)}
    assert (right[:7] <= left[1:8]).all()  # a row from the left to the right
    assert len(np.unique(np.round(top, 6))) == 2
    assert bottom[0] > top[8]
    assert np.allclose(right - left, top - bottom)
    assert [*axes.get_xlim(), *axes.get_ylim()] == [
        0,
        figure.get_figwidth(),
        0,
        figure.get_figheight(),
    ]
    captions = [face.caption for row in sheet.rows for column in row for face in column]
    assert [text.get_text() for text in axes.texts] == captions
    assert [text.get_text() for text in figure.texts] == ["image", "labelled as", "belongs to"]


def test_wrong_labels_are_of_different_classes_and_spread(run_dir: Path) -> None:
    """Of class 10 the surest, image 2, then that of 20; with one row only the surest of all."""
    probability = np.full(12, 0.3, np.float32)
    certain = np.zeros(12, np.float32)
    certain[[1, 2, 5]] = 0.6, 0.9, 0.7
    cleaned = changed(
        run_dir,
        kept=certain == 0,
        clean_probability=probability,
        suggested_label=np.where(certain > 0, 30, -1),
        suggested_probability=certain,
    )
    assert [row[0][0].image for row in Faces(cleaned).wrong_labels().rows] == [2, 5]


def test_the_classes_that_lost_most_come_first(run_dir: Path) -> None:
    """Class 20 loses three, 10 one, 30 none."""
    probability = RESULT.clean_probability.copy()
    probability[[3, 4, 5, 6]] = 0.1, 0.4, 0.2, 0.3
    cleaned = changed(run_dir, clean_probability=probability, kept=probability > 0.4,
                      reason=np.where(probability > 0.4, 1, 3).astype(np.uint8))  # fmt: skip
    sheet = Faces(cleaned).dropped()
    assert cells(sheet)[0] == [[7], [5, 6, 4]]  # what stayed; what went, the surest first
    assert cells(sheet)[1][1] == [3]
    assert sheet.rows[0][0][0].caption == "class 20: 3 of 4 dropped"
    assert sheet.rows[0][1][0].caption == "0.20 nobody"
    assert not Faces(changed(run_dir, kept=np.ones(12, bool))).dropped().rows


def test_one_person_under_two_names_stands_side_by_side(run_dir: Path) -> None:
    cleaned = changed(run_dir, merge_label=np.where(LABEL == 1, 30, -1))
    assert cells(Faces(cleaned).merges()) == [[[4, 5, 6, 7], [8, 9, 10]]]


def test_a_swapped_pair_stands_between_its_identities(run_dir: Path) -> None:
    suggested, certain = np.full(12, -1), np.zeros(12, np.float32)
    suggested[[3, 7]], certain[[3, 7]] = [20, 10], 0.9
    cleaned = changed(run_dir, suggested_label=suggested, suggested_probability=certain,
                      kept=certain == 0)  # fmt: skip
    (row,) = Faces(cleaned).swaps().rows
    assert [[face.image for face in column] for column in row] == [[2, 0, 1], [3], [7], [4, 5, 6]]
    assert [row[1][0].frame, row[2][0].frame] == [RIGHT_COLOUR, WRONG_COLOUR]


def test_hard_images_that_were_kept(run_dir: Path) -> None:
    reason = RESULT.reason.copy()
    reason[[1, 3, 7]] = Reason.HARD  # 3 was dropped
    sheet = Faces(changed(run_dir, reason=reason)).hard()
    assert [row[0][0].image for row in sheet.rows] == [7, 1]  # 0.7, 0.8
    assert [row[0][0].frame for row in sheet.rows] == [WRONG_COLOUR, RIGHT_COLOUR]


def test_noise_has_a_colour_of_its_own() -> None:
    probability = np.concatenate((np.full(30, 0.1), np.full(70, 0.9)))
    threshold = np.array([0.5, np.nan])
    axes = clean_probability_figure(probability, threshold, probability > 0.5).axes[0]
    heights = [sum(bar.get_height() for bar in bars) for bars in axes.containers]
    colours = [bars[0].get_facecolor() for bars in axes.containers]
    assert heights == [30, 70]
    assert colours == [to_rgba(NOISE_COLOUR), to_rgba(CLEAN_COLOUR)]
    classes = clean_probability_figure(probability, threshold).axes[1]
    assert sum(bar.get_height() for bar in classes.patches) == 1  # no image, no threshold


def test_a_class_that_lost_too_much_lies_above_the_line() -> None:
    """Half of the class is noise; all of it, then nothing of it, is dropped."""
    label, is_clean = np.zeros(8, np.int64), np.arange(8) < 4
    for kept, share in ((np.zeros(8, bool), 1.0), (np.ones(8, bool), 0.0)):
        (point,) = class_noise_figure(label, kept, is_clean).axes[0].collections
        assert point.get_offsets().tolist() == [[0.5, share]]


def test_calibration_by_hand(run_dir: Path) -> None:
    """Six images at 0.9: all right but 7; at 0.8 right, at 0.1 wrong, at 0.3 wrong (see parts)."""
    probability = np.array([0.9, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.3, 0.3, 0.3, 0.3], np.float32)
    found = calibration(changed(run_dir, clean_probability=probability))
    assert found is not None
    np.testing.assert_allclose(found.predicted, [0.1, 0.3, 0.9], atol=1e-6)
    np.testing.assert_allclose(found.observed, [0, 1, 6 / 7], atol=1e-6)
    assert found.num_images.tolist() == [1, 4, 7]
    expected = (1 * 0.1 + 4 * 0.7 + 7 * abs(0.9 - 6 / 7)) / 12
    assert found.expected_error == pytest.approx(expected, abs=1e-6)
    line = reliability_figure(found).axes[0].lines[1]
    np.testing.assert_allclose(line.get_xydata(), np.stack([found.predicted, found.observed], 1))
    reason = np.zeros(12, np.uint8)  # nothing was judged
    assert calibration(changed(run_dir, reason=reason)) is None


def test_the_report_shows_the_cleaning(run_dir: Path) -> None:
    page = write_report(run_dir).read_text()
    assert "wrongly dropped" in page
    assert "50.0 %" in page  # precision and recall
    assert page.count("<figure ") == 6
    for name in (
        "class_sizes",
        "clean_probability",
        "class_noise",
        "reliability",
        "dropped",
        "wrong_labels",
    ):
        assert (run_dir / "pictures" / f"{name}.png").is_file()
    alone = write_report(run_dir / "clean").read_text()  # no data set is known there
    assert alone.count("<figure ") == 1


def evaluation(folder: str, accuracy: float) -> Artifact:
    manifest = {"stage": "evaluate", "metrics": {"lfw": {"accuracy": accuracy}}}
    return Artifact(Path("run") / folder, manifest)


def test_trainings_stand_side_by_side() -> None:
    one, two = evaluation("evaluate", 0.7), evaluation("evaluate_retrain", 0.8)
    assert compare([one]) == {"lfw": {"accuracy": 0.7}}
    both = compare([two, one])
    assert list(both) == ["lfw, noisy labels", "lfw, cleaned labels"]
    assert both["lfw, cleaned labels"] == {"accuracy": 0.8}
    first, others = evaluation("round_1/evaluate_retrain", 0.75), [evaluation("mine", 0.1)]
    everything = compare([two, *others, first, one])
    assert list(everything) == [
        f"lfw, {labels}" for labels in ("noisy labels", "round 1", "cleaned labels", "mine")
    ]
    assert compare([Artifact(Path("run/train"), {"stage": "train", "metrics": {}})]) == {}
