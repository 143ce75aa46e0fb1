"""LFW's official View 2: ten sets of people, and the pairs of each.

Source: Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", UMass Amherst TR 07-49;
`people.txt` and `pairs.txt` are read as they are distributed.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from facetrain.core.errors import DataError

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


def _rows(path: Path) -> list[list[str]]:
    """The words of each line; some copies have blanks for the tabs, or a byte order mark."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: must be a text file of LFW; {error}") from None
    return [line.split("\t") if "\t" in line else line.split() for line in lines if line.strip()]


def read_people(path: Path) -> list[dict[str, int]]:
    """Read `people.txt`: "10", then for each set a count and that many "name<TAB>images" lines.

    Raises:
        DataError: another layout.
    """
    try:
        (header,), *rest = _rows(path)
        sets, position = [], 0
        for _ in range(int(header)):
            size = int(rest[position][0])
            rows = rest[position + 1 : position + 1 + size]
            sets.append({name: int(count) for name, count in rows})
            position += 1 + size
        whole = position == len(rest) and len(sets) == NUM_SETS
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: must be LFW's people.txt of View 2; {error}") from None
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
    rows = _rows(path)
    try:
        num_sets, half = map(int, rows[0])
        pairs = [read_pair(row) for row in rows[1:]]
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{path}: must be LFW's pairs.txt of View 2, but {error}; another list, also one of "
            "this layout without the header, is given with --images"
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
