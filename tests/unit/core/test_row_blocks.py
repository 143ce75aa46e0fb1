"""Rows written block by block, in the face of kills and damage."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from facetrain.core.errors import OutputError
from facetrain.core.row_blocks import RowBlocks

ROWS = 23
VALUES = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float16)
NORMS = np.arange(ROWS, dtype=np.float32)


def blocks(folder: Path) -> RowBlocks:
    arrays = {"values.npy": ((ROWS, 3), "float16"), "norms.npy": ((ROWS,), np.float32)}
    return RowBlocks(folder, arrays, block_rows=4)


def write(made: RowBlocks, numbers: list[int]) -> None:
    with made.writer() as writer:
        for number in numbers:
            rows = slice(*made.rows(number))
            writer.write(number, VALUES[rows], NORMS[rows])


def started(folder: Path) -> RowBlocks:
    made = blocks(folder)
    made.create()
    made.note({"of": "a"}, {"way": "exact"})
    return made


def saved(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "values.npy").read_bytes(), (folder / "norms.npy").read_bytes()


def test_all_blocks_make_the_file_that_numpy_saves(tmp_path: Path) -> None:
    made = started(tmp_path)
    assert made.remaining() == [0, 1, 2, 3, 4, 5]
    write(made, [5, 0, 3])  # as several processes do, each its own
    write(made, [2])
    assert blocks(tmp_path).remaining() == [1, 4]
    assert blocks(tmp_path).interrupted({"of": "a"}) == {"way": "exact"}
    assert blocks(tmp_path).interrupted({"of": "b"}) is None
    write(blocks(tmp_path), [1, 4])
    np.save(tmp_path / "whole_values.npy", VALUES)
    np.save(tmp_path / "whole_norms.npy", NORMS)
    whole = (
        (tmp_path / "whole_values.npy").read_bytes(),
        (tmp_path / "whole_norms.npy").read_bytes(),
    )
    assert saved(tmp_path) == whole
    made.finish()
    assert not (tmp_path / ".progress").exists()


def test_damage_costs_the_damaged_blocks_and_no_more(tmp_path: Path) -> None:
    """Bits in rows and in notes, cuts of notes: what remains is done again, to the same bytes."""
    write(started(tmp_path / "whole"), [0, 1, 2, 3, 4, 5])
    chance = random.Random(0)
    for number in range(40):
        folder = tmp_path / str(number)
        write(started(folder), [0, 1, 2, 3])
        kind = number % 3
        path = [folder / "values.npy", folder / "norms.npy", *folder.glob(".progress/done-*")][kind]
        content = bytearray(path.read_bytes())
        begin = 128 if kind < 2 else 0  # after the header of an .npy
        end = len(content) - 3 * (6 if kind == 0 else 4) if kind < 2 else len(content)
        place = chance.randrange(begin, end)
        if kind == 2 and number % 2:
            del content[place:]
        else:
            content[place] ^= 1 << chance.randrange(7)
        path.write_bytes(content)
        again = blocks(folder)
        assert again.interrupted({"of": "a"}) is not None
        remaining = again.remaining()
        assert {4, 5} <= set(remaining)
        write(again, remaining)
        assert saved(folder) == saved(tmp_path / "whole"), (number, remaining)


def test_what_is_not_whole_is_begun_again(tmp_path: Path) -> None:
    made = started(tmp_path)
    state = tmp_path / ".progress" / "state.json"
    for damage in ("{", '{"identity": {"of": "a"}, "plan": {}, "digest": "0"}', "[]", ""):
        state.write_text(damage)
        assert blocks(tmp_path).interrupted({"of": "a"}) is None
    made.note({"of": "a"}, {})
    assert made.interrupted({"of": "a"}) == {}
    norms = (tmp_path / "norms.npy").read_bytes()
    for content in (b"", norms[:-1], norms.replace(b"<f4", b"<i4")):
        (tmp_path / "norms.npy").write_bytes(content)
        assert made.interrupted({"of": "a"}) is None


def test_a_full_disk_is_told_at_the_start(tmp_path: Path) -> None:
    huge = RowBlocks(tmp_path, {"values.npy": ((1 << 50, 4), "float32")}, 4)
    with pytest.raises(OutputError, match=r"values\.npy: needs \d+\.\d GiB of disk, but"):
        huge.create()
    assert not (tmp_path / "values.npy").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes among the files of this system")
def test_a_pipe_in_an_arrays_place_is_not_waited_for(tmp_path: Path) -> None:
    started(tmp_path)
    (tmp_path / "norms.npy").unlink()
    os.mkfifo(tmp_path / "norms.npy")
    assert blocks(tmp_path).interrupted({"of": "a"}) is None
    write(started(tmp_path), [0, 1, 2, 3, 4, 5])
    assert np.array_equal(np.load(tmp_path / "norms.npy"), NORMS)


def test_a_link_in_an_arrays_place_is_not_written_through(tmp_path: Path) -> None:
    """Of whatever kind: the file that it leads to is another's, as in a copy made of links."""
    (tmp_path / "run").mkdir()
    for number, link in enumerate((os.symlink, os.link)):
        made = started(tmp_path / "run")
        other = tmp_path / f"other-{number}"
        (tmp_path / "run" / "norms.npy").rename(other)
        link(other, tmp_path / "run" / "norms.npy")
        before = other.read_bytes()
        if link is os.symlink:
            assert made.interrupted({"of": "a"}) is None
        write(started(tmp_path / "run"), [0, 1, 2, 3, 4, 5])
        assert other.read_bytes() == before
        assert np.array_equal(np.load(tmp_path / "run" / "norms.npy"), NORMS)
