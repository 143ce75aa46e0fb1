"""LFW's official View 2: ten sets of pairs, read as `pairs.txt` is distributed.

Source: Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", UMass Amherst TR 07-49.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from facetrain.core.errors import DataError
from facetrain.data.files.lists import text_lines
from facetrain.data.files.written_number import read_int

NUM_SETS = 10
Face = tuple[str, int]
"""A person's name and the number of the image."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images, and whether they show one person."""

    first: Face
    second: Face
    same: bool


def file_name(face: Face) -> str:
    """Where the image lies below the official folder."""
    name, number = face
    return f"{name}/{name}_{number:04d}.jpg"


Rows = list[tuple[str, list[str]]]
"""Lines of a list, as they are and in words."""


def list_rows(path: Path, what: str) -> Rows:
    """The lines of an official list; some copies have blanks or commas for the tabs."""
    lines = text_lines(path, what)
    between = next((one for one in "\t," if any(one in line for _, line in lines)), None)
    return [(f"line {n}: {line!r:.60}", line.split(between)) for n, line in lines]


def read_pair(row: Sequence[str]) -> Pair:
    """The pair of a line's words: `name n m`, or `name n other m`.

    Raises:
        ValueError: other words.
    """
    if len(row) == 3:
        return Pair((row[0], read_int(row[1])), (row[0], read_int(row[2])), True)
    first_name, first, second_name, second = row
    return Pair((first_name, read_int(first)), (second_name, read_int(second)), False)


def read_pairs(path: Path) -> list[list[Pair]]:
    """Read `pairs.txt`: "10<TAB>n", then for each set n same and n different pairs.

    Raises:
        DataError: another layout.
    """
    what = "name<TAB>n<TAB>m or name<TAB>n<TAB>other<TAB>m"
    (where, header), *rows = list_rows(path, what)
    try:
        num_sets, half = map(read_int, header)
        pairs = []
        for line, row in rows:
            where = line
            pairs.append(read_pair(row))
    except ValueError:
        raise DataError(
            f"{path}: must be LFW's pairs.txt of View 2, 10<TAB>300 and then lines {what}, but has "
            f"{where}; another list, also one of this layout without the header, is given with "
            "--images"
        ) from None
    expected = ([True] * half + [False] * half) * num_sets
    if num_sets != NUM_SETS or [pair.same for pair in pairs] != expected:
        raise DataError(
            f"{path}: must hold {NUM_SETS} sets of {half} same and {half} different pairs, in "
            f"turn, got {len(pairs)} pairs; get LFW's pairs.txt, or give another list with --images"
        )
    return [pairs[2 * half * k : 2 * half * (k + 1)] for k in range(num_sets)]
