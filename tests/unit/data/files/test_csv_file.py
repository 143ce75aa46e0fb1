from pathlib import Path

import pytest

from facetrain.core.errors import DataError
from facetrain.data.files.csv_file import csv_rows


def write(folder: Path, data: bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(data)
    return path


def test_rows_have_the_number_of_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbfa,b\r\n\r\n"x\ny",2\n\n3,4')
    assert list(csv_rows(path, "things")) == [(1, ["a", "b"]), (4, ["x\ny", "2"]), (6, ["3", "4"])]


def test_a_name_of_any_bytes_comes_through(tmp_path: Path) -> None:
    ((_, (name,)),) = csv_rows(write(tmp_path, b"M\xfcller.jpg\n"), "things")
    assert name.encode("utf-8", "surrogateescape") == b"M\xfcller.jpg"


@pytest.mark.parametrize(
    ("data", "reason"), [(None, "No such file"), (b'"' + b"a" * 200_000, "field larger than")]
)
def test_what_is_no_csv_is_refused(data: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "none.csv" if data is None else write(tmp_path, data)
    with pytest.raises(DataError, match=rf"{path.name}: must be a CSV of things, but: {reason}"):
        list(csv_rows(path, "things"))


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(tmp_path: Path, separator: str, name: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(separator.join(["path", "x1", "y1"]) + "\n")
    with pytest.raises(DataError, match=f"with commas between the cells, but has {name} in 'path"):
        list(csv_rows(path, "landmarks"))
    path.write_text(separator.join(["a", "b.jpg,1"]))  # in a file's name
    assert list(csv_rows(path, "landmarks")) == [(1, [f"a{separator}b.jpg", "1"])]
