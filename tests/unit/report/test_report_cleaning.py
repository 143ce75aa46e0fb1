"""What a cleaning is told to have found, and its pictures, read back from what was written."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from report_parts import (
    CLASS_IDS,
    CLEANING,
    GREEN,
    LABEL,
    RED,
    TRUE_LABEL,
    grey,
    near,
    opened,
    pixels,
    write_run,
)

from facetrain.core.artifact import Artifact
from facetrain.core.errors import DataError
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.dataset import DataConfig
from facetrain.data.overlay import LabelOverlay
from facetrain.report.cleaning import Cleaning, noise_numbers, noise_rows
from facetrain.report.comparison import compare
from facetrain.report.dropped import choose_rows, draw_dropped_faces
from facetrain.report.noise_pictures import draw_class_noise, draw_clean_probability
from facetrain.report.summary import write_report

BLUE, ORANGE = (0x0B, 0x6E, 0x99), (0xD9, 0x73, 0x0D)


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


def test_rows_of_the_sheet_by_hand() -> None:
    """Class 1 lost three, class 0 one, class 2 nothing."""
    probability = np.array([0.9, 0.8, 0.1, 0.4, 0.2, 0.3, 0.9, 0.6, 0.7], np.float32)
    label = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    none, no = np.full(9, -1), np.zeros(9, bool)
    cleaning = Cleaning(probability, np.full(3, 0.5), probability > 0.5, none, none, none, no, no)
    rows = choose_rows(cleaning, label, num_rows=8, num_faces=2)
    assert [(row.label, row.size, row.num_dropped) for row in rows] == [(1, 4, 3), (0, 3, 1)]
    assert rows[0].kept == [6]
    assert rows[0].dropped == [4, 3]  # the surest and the most doubtful of 4, 5, 3
    assert rows[1].kept == [0, 1]  # the surest first
    assert rows[1].dropped == [2]


def test_dropped_faces_have_their_frames_and_suggestions(tmp_path: Path) -> None:
    path = tmp_path / "dropped.png"
    is_clean = CLASS_IDS[LABEL] == TRUE_LABEL
    assert draw_dropped_faces(path, CLEANING, LABEL, CLASS_IDS, grey, is_clean)
    sheet = pixels(path)
    green, red = np.argwhere(near(sheet, GREEN)), np.argwhere(near(sheet, RED))
    assert green[:, 0].max() < red[:, 0].min()  # image 3 of class 10 above image 11 of class 30
    for image, frame in ((3, green), (11, red)):
        inside = sheet[tuple(frame.mean(axis=0).astype(int))]
        assert np.abs(inside.astype(int) - 20 * image).max() <= 2
    middle = int(green[:, 0].mean())
    beside = sheet[middle, green[:, 1].max() + 20]  # pixels to the right: the surest of class 20
    assert np.abs(beside.astype(int) - 20 * 4).max() <= 2
    assert draw_dropped_faces(path, CLEANING, LABEL, CLASS_IDS, grey)
    assert not near(pixels(path), GREEN).any()
    nothing = dataclasses.replace(CLEANING, kept=np.ones(12, bool))
    assert not draw_dropped_faces(tmp_path / "none.png", nothing, LABEL, CLASS_IDS, grey)
    assert not (tmp_path / "none.png").exists()


def test_noise_has_its_colour_where_it_lies(tmp_path: Path) -> None:
    probability = np.concatenate((np.full(30, 0.1), np.full(70, 0.9)))
    threshold = np.array([0.5, np.nan])
    draw_clean_probability(tmp_path / "p.png", probability, threshold, probability > 0.5)
    picture = pixels(tmp_path / "p.png")
    picture[: picture.shape[0] // 3] = 255  # without the legend
    noise, clean = (np.argwhere(near(picture, colour))[:, 1] for colour in (ORANGE, BLUE))
    assert noise.max() < picture.shape[1] / 2 < clean.min()
    draw_clean_probability(tmp_path / "p.png", probability, threshold)
    assert not near(pixels(tmp_path / "p.png"), ORANGE).any()


def test_a_class_that_lost_too_much_lies_above_the_line(tmp_path: Path) -> None:
    """Half of the class is noise; all of it, then nothing of it, is dropped."""
    label, is_clean = np.zeros(8, np.int64), np.arange(8) < 4
    heights = []
    for kept in (np.zeros(8, bool), np.ones(8, bool)):
        draw_class_noise(tmp_path / "c.png", label, kept, is_clean)
        picture = pixels(tmp_path / "c.png").astype(int)
        bluish = picture[..., 2] - picture[..., 0] > 40  # the colour map is half transparent
        heights.append(np.argwhere(bluish)[:, 0].mean())
    assert heights[0] < heights[1]  # rows of an image count downwards


def test_the_report_shows_the_cleaning(run_dir: Path) -> None:
    page = write_report(run_dir).read_text()
    assert "wrongly dropped" in page
    assert "50.0 %" in page  # precision and recall
    assert page.count("<figure ") == 4
    for name in ("class_sizes", "clean_probability", "dropped", "class_noise"):
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
