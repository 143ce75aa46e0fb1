"""Attributes of images, by their names or by their rows."""

from pathlib import Path

import pytest

from facetrain.core.errors import DataError
from facetrain.data.attributes import read_attributes


def test_attributes_by_name_and_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,hair,age\na/1.jpg,dark,\n./b/2.jpg,fair,-1\nc/9.jpg,red,old\n")
    found = read_attributes(path, ["a/1.jpg", "b/2.jpg", "a/1.jpg", "d/4.jpg"])
    assert found["hair"].levels == ["dark", "fair", "red"]
    assert found["hair"].level.tolist() == [0, 1, 0, -1]
    assert found["age"].level.tolist() == [-1, -1, -1, -1]
    path.write_text("row,hair\n2,dark\n0,fair\n")
    assert read_attributes(path, 3)["hair"].level.tolist() == [1, -1, 0]
    assert read_attributes(path, ["x", "y", "z"])["hair"].level.tolist() == [1, -1, 0]
    # Names that look like numbers, as IJB's templates have, are names first.
    assert read_attributes(path, ["7", "2"])["hair"].level.tolist() == [-1, 0]
    path.write_text("image,hair\nx.jpg,dark\n")
    with pytest.raises(DataError, match=r"must name images of the set, as 'a.jpg', or their rows"):
        read_attributes(path, ["a.jpg"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "and 0 lines"),
        ("image,age\n", "and 0 lines"),
        ("image\na.jpg\n", "got 'image'"),
        ("image,age,age\na.jpg,3,4\n", "distinct attributes"),
        ("image,age\na.jpg,3\n\nb.jpg\n", "line 4 must have 2 cells"),
    ],
)
def test_what_is_no_table_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_attributes(tmp_path / "a.csv", ["a.jpg", "b.jpg"])
