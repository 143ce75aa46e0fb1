"""The journal: every line on the disk, none lost, none invented."""

import json
import os
from pathlib import Path

import pytest

from facetrain.core.errors import DataError
from facetrain.data.review_journal import Decision, open_journal, read_journal

DROP = Decision("drop", (1, 2), 7)
MERGE = Decision("merge", (4,), 9, 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of ten rows with two decisions."""
    path = tmp_path / "review" / "journal.jsonl"
    with open_journal(path, "abc", 10) as journal:
        for entry in (DROP.as_entry(), MERGE.as_entry(), {"action": "seen", "label": 7}):
            journal.append(entry)
    return path


def test_what_was_said_is_there_again(path: Path) -> None:
    with open_journal(path, "abc", 10) as journal:
        assert journal.history.done == [DROP, MERGE]
        assert journal.history.seen == {7}
        journal.append({"action": "undo"})
        assert (journal.history.done, journal.history.undone) == ([DROP], [MERGE])
    history = read_journal(path).history
    assert (history.done, history.undone) == ([DROP], [MERGE])
    with open_journal(path, "abc", 10) as journal:
        journal.append({"action": "redo"})
        journal.append({"action": "undo"})
        journal.append(DROP.as_entry())  # a new decision: nothing to redo any more
    history = read_journal(path).history
    assert (history.done, history.undone) == ([DROP, DROP], [])


def test_a_swap_has_two_images_and_two_labels(path: Path) -> None:
    swap = Decision("swap", (3, 5), 9, other=7)
    with open_journal(path, "abc", 10) as journal:
        journal.append(swap.as_entry())
    assert read_journal(path).history.done == [DROP, MERGE, swap]
    wrong = ({"rows": [3]}, {"other": -1}, {"action": "move"})
    for number, change in enumerate(wrong):
        other = path.with_name(str(number))
        line = json.dumps(swap.as_entry() | change)
        other.write_text(path.read_text() + line + "\n")
        with pytest.raises(DataError, match="line 6 must be"):
            read_journal(other)


def test_a_line_is_whole_on_the_disk_before_it_counts(path: Path) -> None:
    with open_journal(path, "abc", 10) as journal:
        journal.append(DROP.as_entry())
        assert len(read_journal(path).history.done) == 3  # another process sees it at once


@pytest.mark.parametrize("cut", [1, 10, 25])
def test_a_line_that_a_kill_cut_short_was_never_acknowledged(path: Path, cut: int) -> None:
    with open_journal(path, "abc", 10) as journal:
        journal.append(DROP.as_entry())
    os.truncate(path, path.stat().st_size - cut)
    assert read_journal(path).history.done == [DROP, MERGE]
    with open_journal(path, "abc", 10) as journal:
        assert journal.history.done == [DROP, MERGE]
        journal.append(MERGE.as_entry())
    assert read_journal(path).history.done == [DROP, MERGE, MERGE]


def test_a_head_that_a_kill_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"format":"facetr')
    with open_journal(path, "abc", 10) as journal:
        journal.append(DROP.as_entry())
    assert read_journal(path).history.done == [DROP]


def test_a_full_disk_leaves_the_journal_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    with open_journal(path, "abc", 10) as journal:
        with monkeypatch.context() as context:
            context.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
            with pytest.raises(OSError, match="full"):
                journal.append(DROP.as_entry())
        assert journal.history.done == [DROP, MERGE]
        assert path.read_bytes() == before
        journal.append(MERGE.as_entry())
    assert read_journal(path).history.done == [DROP, MERGE, MERGE]


def test_one_review_at_a_time(path: Path) -> None:
    pytest.importorskip("fcntl")
    with open_journal(path, "abc", 10), pytest.raises(DataError, match="one review at a time"):  # noqa: SIM117
        with open_journal(path, "abc", 10):
            pass


def test_the_journal_of_another_data_set_is_refused(path: Path) -> None:
    for fingerprint, num_rows in (("abd", 10), ("abc", 11)):
        with (
            pytest.raises(DataError, match="move it away"),
            open_journal(path, fingerprint, num_rows),
        ):
            pass


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "7", '{"action":"shoot","rows":[1],"label":1,"merged":-1}',
        '{"action":"drop","rows":[10],"label":1,"merged":-1}',
        '{"action":"drop","rows":[-1],"label":1,"merged":-1}',
        '{"action":"drop","rows":["x"],"label":1,"merged":-1}',
        '{"action":"drop","rows":[1],"label":-1,"merged":-1}',
        '{"action":"drop","rows":[1]}', '{"action":"redo"}', '{"rows":[1]}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(path: Path, line: str) -> None:
    with open(path, "a") as file:
        file.write(line + "\n" + json.dumps(DROP.as_entry()) + "\n")
    with pytest.raises(DataError, match=r"journal\.jsonl: line 5 must be"):
        read_journal(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content in (b"\n", b"hello\n", b'{"format":"facetrain review 2"}\n', b"\xff\xfe\n"):
        (tmp_path / "journal.jsonl").write_bytes(content)
        with pytest.raises(DataError, match="line 1 must be"):
            read_journal(tmp_path / "journal.jsonl")
    with pytest.raises(DataError, match="readable journal"):
        read_journal(tmp_path / "none")
    (tmp_path / "device").symlink_to("/dev/zero")  # which would be read for ever
    os.mkfifo(tmp_path / "pipe")
    for name in ("device", "pipe"):
        with pytest.raises(DataError, match="no plain file"), open_journal(tmp_path / name, "f", 4):
            pass
