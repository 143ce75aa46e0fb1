"""What Python takes for a number and a table does not mean."""

from pathlib import Path

import pytest

from facetrain.core.errors import DataError
from facetrain.data.evaluation.lfw import read_pairs
from facetrain.data.files.written_number import read_float, read_int
from facetrain.data.images.landmarks import read_landmarks


def test_numbers() -> None:
    assert read_int(" -7 ") == -7
    assert read_float("+1.5e1") == 15


@pytest.mark.parametrize("text", ["1_0", "\uff11", "\u0663", "", "x"])
def test_what_is_none(text: str) -> None:
    for read in (read_int, read_float):
        with pytest.raises(ValueError, match=r"number|invalid literal|could not convert"):
            read(text)


def test_no_table_guesses(tmp_path: Path) -> None:
    points = "38,52,74,52,56,72,42,92,71,92"
    (tmp_path / "l.csv").write_text(f"a,{points}\nb,{points.replace('42', '4_2')}\n")
    with pytest.raises(DataError, match="line 2 must be"):
        read_landmarks(tmp_path / "l.csv")
    (tmp_path / "pairs.txt").write_text("1\t1\nann\t1\t2\nann\t1\tbob\t1_0\n")
    with pytest.raises(DataError, match=r"pairs.txt"):
        read_pairs(tmp_path / "pairs.txt")
