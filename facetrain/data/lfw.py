"""LFW's official View 2: ten sets of people, and the pairs of each.

Source: Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", UMass Amherst TR 07-49;
`people.txt` and `pairs.txt` are read as they are distributed.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from facetrain.core.errors import DataError
from facetrain.data.lists import text_lines

NUM_SETS = 10
Face = tuple[str, int]
"""A person's name and the number of the image."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images, and whether they show one person."""

    first: Face
    second: Face
    same: bool


@dataclasses.dataclass(frozen=True)
class View2:
    """The official sets.

    Attributes:
        people: for each set, name -> number of images.
        pairs: for each set, its test pairs.
    """

    people: list[dict[str, int]]
    pairs: list[list[Pair]]

    def faces(self) -> list[Face]:
        """Every image, set by set and person by person."""
        everyone = [person for people in self.people for person in people.items()]
        return [(name, n + 1) for name, count in everyone for n in range(count)]


def file_name(face: Face) -> str:
    """Where the image lies below the official folder."""
    name, number = face
    return f"{name}/{name}_{number:04d}.jpg"


_Rows = list[tuple[str, list[str]]]
"""Lines of a list, as they are and in words."""


def _rows(path: Path, what: str) -> _Rows:
    """Some copies have blanks or commas for the tabs."""
    lines = text_lines(path, what)
    between = next((one for one in "\t," if any(one in line for _, line in lines)), None)
    return [(f"line {n}: {line!r:.60}", line.split(between)) for n, line in lines]


def read_people(path: Path) -> list[dict[str, int]]:
    """Read `people.txt`: "10", then for each set a count and that many "name<TAB>images" lines.

    Raises:
        DataError: another layout.
    """
    rows, place, sets = _rows(path, "name<TAB>images"), 0, list[dict[str, int]]()
    where = "its first line"
    try:
        where, (header,) = rows[0]
        place = 1
        for _ in range(int(header)):
            where, (size,) = rows[place]
            people: dict[str, int] = {}
            for line, (name, count) in rows[place + 1 : place + 1 + int(size)]:
                where = line
                people[name] = int(count)
            sets.append(people)
            place += 1 + int(size)
        whole = place == len(rows) and len(sets) == NUM_SETS
    except (ValueError, IndexError):
        raise DataError(
            f"{path}: must be LFW's people.txt of View 2, 10 and then for each set a count and "
            f"that many lines name<TAB>images, which ends at {where}"
        ) from None
    if not whole:
        raise DataError(f"{path}: must hold {NUM_SETS} sets and nothing else; get LFW's people.txt")
    return sets


def read_pair(row: Sequence[str]) -> Pair:
    """The pair of a line's words: `name n m`, or `name n other m`.

    Raises:
        ValueError: other words.
    """
    if len(row) == 3:
        return Pair((row[0], int(row[1])), (row[0], int(row[2])), True)
    first_name, first, second_name, second = row
    return Pair((first_name, int(first)), (second_name, int(second)), False)


def read_pairs(path: Path) -> list[list[Pair]]:
    """Read `pairs.txt`: "10<TAB>n", then for each set n same and n different pairs.

    Raises:
        DataError: another layout.
    """
    what = "name<TAB>n<TAB>m or name<TAB>n<TAB>other<TAB>m"
    (where, header), *rows = _rows(path, what)
    try:
        num_sets, half = map(int, header)
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


def check_disjoint(view: View2) -> None:
    """Hold the protocol to its word.

    Raises:
        DataError: a person in two sets, or a test pair with a face that is not of its set.
    """
    for (a, one), (b, other) in itertools.combinations(enumerate(view.people, 1), 2):
        if shared := sorted(one.keys() & other.keys()):
            raise DataError(
                f"the sets must share no person, but {shared[0]} is in sets {a} and {b}; "
                "get LFW's people.txt"
            )
    for number, (people, pairs) in enumerate(zip(view.people, view.pairs, strict=True), 1):
        for pair in pairs:
            for name, image in (pair.first, pair.second):
                if not 1 <= image <= people.get(name, 0):
                    raise DataError(
                        f"pairs of set {number} must show its own people, but {name} {image} is "
                        "not in it; people.txt and pairs.txt must be of one release"
                    )
