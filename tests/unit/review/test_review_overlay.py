"""From journal to overlay, against the decisions applied one by one to a dict."""

from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.rng import numpy_generator
from facetrain.data.overlay import LabelOverlay
from facetrain.data.review_journal import Decision, open_journal, read_journal
from facetrain.review.review_overlay import decided_rows, decides, overlay_of, refresh

NUM_ROWS = 30


def random_entries(seed: int, number: int) -> list[dict[str, Any]]:
    """Decisions, undos and redos as a hasty person makes them."""
    generator = numpy_generator(seed, "entries")
    entries: list[dict[str, Any]] = []
    done = undone = 0
    while len(entries) < number:
        kind = generator.choice(["keep", "drop", "move", "swap", "undo", "redo"])
        if kind == "undo" and done:
            done, undone = done - 1, undone + 1
        elif kind == "redo" and undone:
            done, undone = done + 1, undone - 1
        elif kind in ("undo", "redo"):
            continue
        else:
            done, undone = done + 1, 0
            rows = generator.choice(NUM_ROWS, generator.integers(1, 5), replace=False).tolist()
            label, other = generator.integers(0, 6, 2).tolist()
            if kind == "swap":
                entries.append(Decision("swap", tuple(rows * 2)[:2], label, other=other).as_entry())
                continue
            entries.append(Decision(str(kind), tuple(rows), label).as_entry())  # type: ignore[arg-type]
            continue
        entries.append({"action": str(kind)})
    return entries


def slow(entries: list[dict[str, Any]]) -> dict[int, tuple[int, bool]]:
    """Row -> label and kept: forget what was undone, then apply the rest in order."""
    stack: list[dict[str, Any]] = []
    back: list[dict[str, Any]] = []
    for entry in entries:
        if entry["action"] == "undo":
            back.append(stack.pop())
        elif entry["action"] == "redo":
            stack.append(back.pop())
        else:
            stack, back = [*stack, entry], []
    said = {}
    for entry in stack:
        for place, row in enumerate(entry["rows"]):
            second = entry["action"] == "swap" and place == 1
            said[row] = (entry["other" if second else "label"], entry["action"] != "drop")
    return said


def write(folder: Path, entries: list[dict[str, Any]]) -> Path:
    with open_journal(folder / "journal.jsonl", "abc", NUM_ROWS) as journal:
        for entry in entries:
            journal.append(entry)
    return folder / "overlay.npz"


def test_the_overlay_says_what_the_journal_says(tmp_path: Path) -> None:
    for seed in range(8):
        entries = random_entries(seed, 40)
        overlay = overlay_of(
            read_journal(write(tmp_path / str(seed), entries).with_name("journal.jsonl"))
        )
        said = slow(entries)
        for row in range(NUM_ROWS):
            assert overlay.source[row] == (row in said)
            if row in said:
                assert (overlay.label[row], overlay.kept[row]) == said[row]
        # Over a cleaner that dropped everything, only what was said changes.
        base = np.arange(NUM_ROWS) + 100
        label, kept = overlay.apply(base, np.zeros(NUM_ROWS, np.bool_), base)
        for row in range(NUM_ROWS):
            assert (label[row], kept[row]) == said.get(row, (base[row], False))


def test_refreshing_brings_the_file_up_to_date_and_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, random_entries(0, 12))
    refresh(path)
    first, when = path.read_bytes(), path.stat().st_mtime_ns
    refresh(tmp_path)  # the folder stands for it
    assert path.stat().st_mtime_ns == when
    write(tmp_path, [Decision("drop", (3,), 1).as_entry(), {"action": "undo"}])
    refresh(path)  # decided and taken back: the same bytes, so no stage runs again
    assert path.read_bytes() == first
    write(tmp_path, [Decision("drop", (3,), 5).as_entry()])
    refresh(path)
    assert path.read_bytes() != first
    assert not LabelOverlay.load(path).kept[3]
    (tmp_path / ".overlay.npz.01234567.tmp").touch()  # of one that was killed before it was done
    write(tmp_path, [Decision("drop", (4,), 5).as_entry()])
    refresh(path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["journal.jsonl", "overlay.npz"]


def test_overlays_without_a_journal_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "overlay.npz"
    LabelOverlay.make(np.arange(3), np.ones(3, np.bool_)).save(path)
    before = path.read_bytes()
    for named in (path, tmp_path, tmp_path / "none", tmp_path / "none" / "overlay.npz"):
        refresh(named)
    assert path.read_bytes() == before
    assert not decides(path)
    assert not decides(tmp_path / "none.npz")


def test_whose_decisions_they_were(tmp_path: Path) -> None:
    entries = [Decision("drop", (1, 4), 2).as_entry(), Decision("keep", (9,), 2).as_entry()]
    path = write(tmp_path, entries)
    refresh(path)
    assert decides(path)
    cleaner = tmp_path / "cleaner.npz"
    LabelOverlay.make(
        np.zeros(NUM_ROWS), np.ones(NUM_ROWS, np.bool_),
        source=np.ones(NUM_ROWS), source_names=("", "clean"),
    ).save(cleaner)  # fmt: skip
    decided = decided_rows([cleaner, path], NUM_ROWS)
    assert np.flatnonzero(decided).tolist() == [1, 4, 9]
    write(tmp_path, [{"action": "undo"}, {"action": "undo"}])
    refresh(path)
    assert not decides(path)
    assert not decided_rows([cleaner, path], NUM_ROWS).any()
