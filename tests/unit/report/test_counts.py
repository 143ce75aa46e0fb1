"""What the report counts: class sizes, where images went, what a person decided."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.cleaning_results import everything_kept
from helpers.manifest import change_manifest
from helpers.reports import CLASS_IDS, LABEL, RESULT, opened, write_run

from facetrain.core.digest import file_digest
from facetrain.core.rng import numpy_generator
from facetrain.data.overlay import LabelOverlay
from facetrain.report.class_sizes import class_sizes, class_sizes_figure, size_bins, size_rows
from facetrain.report.cleaning import finding_rows, outcome_rows, reason_rows
from facetrain.report.page import write_report
from facetrain.report.run import journal_counts


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


def test_a_long_tail_is_drawn_logarithmically() -> None:
    generator = numpy_generator(0, "tail")
    for largest, scale in ((20, "linear"), (500, "log")):
        sizes = -np.sort(-generator.integers(1, largest, size=60))
        views = {"as given": sizes, "after": sizes[5:]}
        identities, tail = class_sizes_figure(views).axes
        assert tail.get_xscale() == scale
        counted = [steps.get_data()[0].sum() for steps in identities.patches]
        assert counted == [60, 55]
        assert [line.get_ydata().tolist() for line in tail.lines] == [
            one.tolist() for one in views.values()
        ]


def test_the_account_adds_up_and_agrees_with_the_truth(run_dir: Path) -> None:
    """Images 3 (noise, rightly to 20) and 11 (clean, wrongly to 10) fell; noise 7 stayed."""
    cleaned = opened(run_dir)
    rows = {row.what: row for row in outcome_rows(RESULT, cleaned)}
    numbers = {name: row.num_images for name, row in rows.items()}
    assert numbers == {"kept as labelled": 10, "dropped": 2}
    assert rows["kept as labelled"].truth == "1 noise, 9 clean"
    assert rows["dropped"].truth == "1 noise, 1 clean"
    reasons = {row.what: (row.num_images, row.truth) for row in reason_rows(RESULT, cleaned)}
    assert reasons == {"clean": (10, "1 noise, 9 clean"), "another identity": (2, "1 rightly")}
    # With the suggestions applied, as the cleaner's overlay has it.
    moved = np.where(np.arange(12) == 3, 20, np.where(np.arange(12) == 11, 10, CLASS_IDS[LABEL]))
    LabelOverlay.make(moved, np.ones(12, bool)).save(run_dir / "clean" / "overlay.npz")
    cleaned = opened(run_dir)
    rows = {row.what: row for row in outcome_rows(RESULT, cleaned)}
    assert rows["moved to another identity"].num_images == 2
    assert rows["moved to another identity"].truth == "1 to the right one"
    assert rows["dropped"].num_images == 0
    assert {row.truth for row in outcome_rows(RESULT, None)} == {""}


def test_no_image_is_counted_twice() -> None:
    generator = numpy_generator(0, "account")
    some = generator.random((3, 500)) < 0.1
    result = dataclasses.replace(
        everything_kept(500, 3),
        kept=generator.random(500) < 0.6,
        reason=generator.integers(0, 7, 500).astype(np.uint8),
        merge_label=np.where(some[1], 2, -1),
        duplicate_of=np.where(some[0], 0, -1),
        overlap=some[2],
    )
    assert sum(row.num_images for row in outcome_rows(result, None)) == 500
    reasons = {row.what: row.num_images for row in reason_rows(result, None)}
    assert reasons == {
        name: (result.reason == number).sum() for number, name in enumerate(result.reason_names)
    }
    assert [row.num_images for row in finding_rows(result, None)] == some.sum(axis=1).tolist()


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
        CLASS_IDS[LABEL], RESULT.kept, source=np.ones(12), source_names=("", "clean")
    )
    path = run_dir / "clean" / "overlay.npz"
    kept.save(path)
    digest = {path.name: file_digest(path)}
    change_manifest(run_dir / "clean", lambda manifest: manifest["files"].update(digest))
    page = write_report(run_dir).read_text()
    rows = re.findall(r"<tr><td>(as given|after cleaning)</td>(.*?)</tr>", page)
    cells = {name: re.findall(r"<td>(.*?)</td>", rest) for name, rest in rows}
    assert cells["as given"] == ["12", "3", "0", "4", "4", "4"]
    assert cells["after cleaning"] == ["10", "3", "0", "3", "3", "4"]
