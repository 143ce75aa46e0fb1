"""The people of LFW's ten official sets, and whether the protocol holds.

`people.txt` is read as it is distributed.
"""

import dataclasses
import itertools
from pathlib import Path

from facetrain.core.errors import DataError
from facetrain.data.evaluation.lfw import NUM_SETS, Face, Pair, list_rows


@dataclasses.dataclass(frozen=True)
class View2:
    """The official sets."""

    people: list[dict[str, int]]  # for each set, name -> number of images
    pairs: list[list[Pair]]  # for each set, its test pairs

    def faces(self) -> list[Face]:
        """Every image, set by set and person by person."""
        everyone = [person for people in self.people for person in people.items()]
        return [(name, n + 1) for name, count in everyone for n in range(count)]


def read_people(path: Path) -> list[dict[str, int]]:
    """Read `people.txt`: "10", then for each set a count and that many "name<TAB>images" lines.

    Raises:
        DataError: another layout.
    """
    rows, place, sets = list_rows(path, "name<TAB>images"), 0, list[dict[str, int]]()
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
