"""What became of the images that a cleaner judged, and why, as rows that add up."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.data.cleaned_set import Bools, CleanedSet
from facetrain.report.cleaning import Cleaning


class Fate(NamedTuple):
    """One line of the account."""

    what: str
    why: str
    num_images: int
    truth: str = ""  # how right that was, where it is known
    inside: bool = False  # a part of the line before it


@dataclasses.dataclass(frozen=True)
class Masks:
    """Which images went where, (N,) each; kept, moved and gone are all of them."""

    kept: Bools
    moved: Bools
    gone: Bools


def masks(cleaning: Cleaning, moves: bool) -> Masks:
    """Split the images.

    Args:
        cleaning: what was decided.
        moves: whether suggestions were applied (`clean.apply_suggestions`).
    """
    moved = ~cleaning.kept & (cleaning.suggested_label >= 0) & moves
    return Masks(cleaning.kept, moved, ~cleaning.kept & ~moved)


def fates(cleaning: Cleaning, moves: bool, cleaned: CleanedSet | None) -> list[Fate]:
    """The account of a cleaning: kept, moved, left out, each with its reason.

    Args:
        cleaning: what was decided.
        moves: whether suggestions were applied.
        cleaned: the same with its data set, for what the truth says of it; None where that is
            not here.
    """
    split = masks(cleaning, moves)
    suggested = cleaning.suggested_label >= 0
    is_clean = None if cleaned is None else cleaned.is_clean
    is_right = None if cleaned is None else cleaned.is_right(cleaned.suggested)

    def noise_in(which: Bools) -> str:
        if is_clean is None:
            return ""
        noise = _count(which & ~is_clean)
        return f"{noise:,} noise, {_count(which) - noise:,} clean"

    rows = [
        Fate(
            "kept as labelled",
            "clean probability above the threshold of the class",
            _count(split.kept),
            noise_in(split.kept),
        )
    ]
    if cleaning.undecided.any():
        rows.append(
            Fate(
                "in classes left as they are",
                "no majority tells whose class it is",
                _count(cleaning.undecided),
                noise_in(cleaning.undecided),
                inside=True,
            )
        )
    if moves:
        right = "" if is_right is None else f"{_count(split.moved & is_right):,} to the right one"
        why = "below the threshold, and clearly another identity's"
        rows.append(Fate("moved to another identity", why, _count(split.moved), right))
    rows.append(
        Fate(
            "left out",
            "below the threshold of the class",
            _count(split.gone),
            noise_in(split.gone),
        )
    )
    if not moves:
        seems = split.gone & suggested
        right = "" if is_right is None else f"{_count(seems & is_right):,} rightly"
        why = "clean.apply_suggestions=true would move them there"
        rows.append(Fate("seem another identity's", why, _count(seems), right, inside=True))
    return rows


def advice(cleaning: Cleaning) -> list[Fate]:
    """What a cleaner noticed besides, on which nothing acts by itself."""
    return [
        Fate(
            "near copies",
            "all but the same as an earlier image",
            _count(cleaning.duplicate_of >= 0),
        ),
        Fate(
            "in classes that seem to be one person with another class",
            "the two should perhaps be merged",
            _count(cleaning.merge_label >= 0),
        ),
        Fate(
            "in classes that are also in an evaluation set",
            "exclude them for an honest number",
            _count(cleaning.overlap),
        ),
    ]


def _count(which: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(which))
