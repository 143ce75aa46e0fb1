"""Whole numbers from text, against Python's own parser, at any cut of the file."""

import itertools

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.files import integer_table
from facetrain.data.files.integer_table import read_integers


def write(path, num_lines=500):
    generator = np.random.default_rng(0)
    blanks = [" ", "\t", "  "]
    lines = []
    for _ in range(num_lines):
        digits = generator.integers(1, 18, 3)
        cells = [str(int(generator.integers(0, 10**d))) for d in digits]
        lines.append(blanks[generator.integers(3)].join(cells) + " " * int(generator.integers(2)))
    return lines


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_numbers_are_those_of_python(tmp_path, monkeypatch, end, newline):
    monkeypatch.setattr(integer_table, "_BLOCK_BYTES", 300)
    path = tmp_path / "a.txt"
    lines = write(path)
    path.write_bytes((newline.join(lines) + (newline if end else "")).encode())
    expected = [[int(cell) for cell in line.split()] for line in lines]
    found = list(read_integers(path, "a b c"))
    assert len(found) > 10
    assert np.concatenate(found).tolist() == expected


def test_a_file_cut_at_any_byte_gives_each_line_once(tmp_path, monkeypatch):
    monkeypatch.setattr(integer_table, "_BLOCK_BYTES", 20)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{i} {i * i} {i % 2}\n" for i in range(12)))
    size = path.stat().st_size
    for cut in range(size + 1):
        rows = [
            row
            for start, stop in itertools.pairwise([0, cut, (cut + size) // 2, size])
            for block in read_integers(path, "a b c", start, stop)
            for row in block.tolist()
        ]
        assert rows == [[i, i * i, i % 2] for i in range(12)], cut


@pytest.mark.parametrize(
    "bad",
    ["1 2", "1 2 3 4", "1 2 x", "1 2 -3", "1 2 3.5", "1 2 99999999999999999999", "1,2,3"],
)
def test_the_first_bad_line_is_named(tmp_path, monkeypatch, bad):
    monkeypatch.setattr(integer_table, "_BLOCK_BYTES", 50)
    path = tmp_path / "a.txt"
    lines = [f"{i} 7 0" for i in range(40)]
    lines[29] = bad
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"a.txt: line 30 must be 'a b c' .*got '{bad}'"):
        list(read_integers(path, "a b c"))


def test_blank_lines_do_not_matter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n1 2\n\n3 4\n\n \n")
    assert np.concatenate(list(read_integers(path, "a b"))).tolist() == [[1, 2], [3, 4]]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="there is none"):
        list(read_integers(tmp_path / "none.txt", "a b"))
