"""What the report counts: class sizes, where images went, what a person decided."""

import dataclasses
import itertools
import json
import re
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

from facetrain.core.rng import numpy_generator
from facetrain.data.overlay import LabelOverlay
from facetrain.report.breakdown import advice, fates, masks
from facetrain.report.class_sizes import class_sizes, draw_class_sizes, size_bins, size_rows
from facetrain.report.cleaning import Cleaning
from facetrain.report.moved import choose_moved, draw_moved_faces
from facetrain.report.stages import journal_counts
from facetrain.report.summary import write_report


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def test_sizes_and_their_table_by_hand() -> None:
    """Classes of 3, 1 and 2 images; label 3 has none, label 4 has one."""
    sizes = class_sizes(np.array([0, 0, 0, 1, 2, 2, 4]))
    assert sizes.tolist() == [3, 2, 1, 1]
    header, rows = size_rows({"as given": sizes})
    cells = dict(zip(header, rows[0], strict=True))
    assert cells == {
        "labels": "as given", "images": "7", "identities": "4", "with one image": "2",
        "smallest": "1", "median": "1.5", "largest": "3",
    }  # fmt: skip


@pytest.mark.parametrize("largest", [1, 2, 5, 48, 49, 300, 100_000])
def test_every_size_falls_into_one_bin(largest: int) -> None:
    bins = size_bins(largest)
    assert bins[0] == 1
    assert bins[-1] == largest + 1
    assert (np.diff(bins) > 0).all()
    sizes = numpy_generator(0, "sizes").integers(1, largest + 1, size=1000)
    slowly = [sum(1 for one in sizes if a <= one < b) for a, b in itertools.pairwise(bins)]
    assert np.histogram(sizes, bins - 0.5)[0].tolist() == slowly
    assert sum(slowly) == 1000


def test_a_long_tail_is_drawn_logarithmically(tmp_path: Path) -> None:
    generator = numpy_generator(0, "tail")
    for name, largest in (("short", 20), ("long", 500)):
        sizes = -np.sort(-generator.integers(1, largest, size=60))
        draw_class_sizes(tmp_path / f"{name}.png", {"as given": sizes, "after": sizes[5:]})
        assert near(pixels(tmp_path / f"{name}.png"), (0xD9, 0x73, 0x0D)).any()  # the second view


def test_the_account_adds_up_and_agrees_with_the_truth(run_dir: Path) -> None:
    """Images 3 (noise, rightly to 20) and 11 (clean, wrongly to 10) fell; noise 7 stayed."""
    cleaned = opened(run_dir)
    rows = {row.what: row for row in fates(CLEANING, True, cleaned)}
    numbers = {name: row.num_images for name, row in rows.items()}
    assert numbers == {"kept as labelled": 10, "moved to another identity": 2, "left out": 0}
    assert rows["kept as labelled"].truth == "1 noise, 9 clean"
    assert rows["moved to another identity"].truth == "1 to the right one"
    rows = {row.what: row for row in fates(CLEANING, False, cleaned)}
    assert rows["left out"].num_images == 2
    assert rows["left out"].truth == "1 noise, 1 clean"
    assert rows["seem another identity's"].truth == "1 rightly"
    unknown = fates(CLEANING, True, None)
    assert [row.truth for row in unknown] == ["", "", ""]


def test_no_image_is_counted_twice() -> None:
    generator = numpy_generator(0, "account")
    num_images = 500
    kept, suggested = generator.random(num_images) < 0.6, generator.integers(-1, 4, num_images)
    some = generator.random((3, num_images)) < 0.1
    cleaning = Cleaning(
        generator.random(num_images).astype(np.float32),
        np.full(4, 0.5, np.float32),
        kept,
        suggested,
        np.where(some[1], 2, -1),
        np.where(some[0], 0, -1),
        some[2],
        some[2] & kept,
    )
    for moves in (False, True):
        split = masks(cleaning, moves)
        assert (split.kept.astype(int) + split.moved + split.gone == 1).all()
        assert split.moved.any() == moves
        top = [row.num_images for row in fates(cleaning, moves, None) if not row.inside]
        assert sum(top) == num_images
    undecided = next(row for row in fates(cleaning, False, None) if "left as" in row.what)
    assert undecided.num_images == (some[2] & kept).sum()
    assert [row.num_images for row in advice(cleaning)] == some.sum(axis=1).tolist()


def test_moved_images_stand_between_where_they_were_and_went(tmp_path: Path) -> None:
    is_right = CLASS_IDS[CLEANING.suggested_label] == TRUE_LABEL
    path = tmp_path / "moved.png"
    assert draw_moved_faces(path, CLEANING, LABEL, CLASS_IDS, grey, is_right)
    sheet = pixels(path)
    green, red = np.argwhere(near(sheet, GREEN)), np.argwhere(near(sheet, RED))
    assert green[:, 0].max() < red[:, 0].min()  # image 3, the surer one, above image 11
    row = sheet[int(green[:, 0].mean())].astype(int)
    greys = [value for value in range(0, 240, 20) if (np.abs(row - value).max(axis=1) <= 2).any()]
    # The image; of class 10 images 2, 0 and 1, the rest of it; of class 20 all four.
    assert set(greys) == {20 * image for image in (3, 0, 1, 2, 4, 5, 6, 7)}
    still = dataclasses.replace(CLEANING, suggested_label=np.full(12, -1))
    assert not draw_moved_faces(tmp_path / "none.png", still, LABEL, CLASS_IDS, grey)


def test_moved_images_are_of_different_classes() -> None:
    probability = np.array([0.3, 0.1, 0.2, 0.9, 0.4, 0.05], np.float32)
    none, no = np.full(6, -1), np.zeros(6, bool)
    cleaning = Cleaning(
        probability, np.full(3, 0.5), probability > 0.5, np.array([1, 1, 1, 2, 0, -1]),
        none, none, no, no,
    )  # fmt: skip
    label = np.array([0, 0, 0, 1, 2, 2])
    assert choose_moved(cleaning, label, 8) == [1, 4]  # the surest of class 0, that of class 2
    assert choose_moved(cleaning, label, 1) == [1]


def test_decisions_that_were_taken_back_do_not_count(tmp_path: Path) -> None:
    assert journal_counts(tmp_path) is None

    def decision(action: str, rows: list[int]) -> dict[str, object]:
        return {"action": action, "rows": rows, "label": 1, "merged": -1}

    entries = [
        {"format": "facetrain review 1", "dataset": "x", "num_rows": 9},
        {"action": "seen", "label": 4},
        decision("drop", [1, 2]),
        decision("move", [3]),
        {"action": "undo"},
        {"action": "undo"},
        {"action": "redo"},
        decision("merge", [5, 6, 7]),
        decision("keep", [8]),
        decision("swap", [2, 6]) | {"other": 2},
        {"action": "seen", "label": 4},
    ]
    (tmp_path / "review").mkdir()
    text = "".join(json.dumps(entry) + "\n" for entry in entries) + '{"action": "dr'
    (tmp_path / "review" / "journal.jsonl").write_text(text)
    assert journal_counts(tmp_path) == {
        "keep": (1, 1), "drop": (1, 2), "move": (0, 0), "merge": (1, 3), "swap": (1, 2),
        "seen": (1, 0),
    }  # fmt: skip


def test_the_page_shows_sizes_before_and_after(run_dir: Path) -> None:
    kept = LabelOverlay.make(
        CLASS_IDS[LABEL], CLEANING.kept, source=np.ones(12), source_names=("", "clean")
    )
    kept.save(run_dir / "clean" / "overlay.npz")
    page = write_report(run_dir).read_text()
    rows = re.findall(r"<tr><td>(as given|after cleaning)</td>(.*?)</tr>", page)
    cells = {name: re.findall(r"<td>(.*?)</td>", rest) for name, rest in rows}
    assert cells["as given"] == ["12", "3", "0", "4", "4", "4"]
    assert cells["after cleaning"] == ["10", "3", "0", "3", "3", "4"]
