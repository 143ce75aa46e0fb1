"""What a cleaning decided and why, as rows that add up; how right it was where that is known."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from facetrain.data.cleaned_set import Bools, CleanedSet
from facetrain.data.cleaning_result import REASON_NAMES, CleaningResult, Reason
from facetrain.metrics.calibration import Calibration
from facetrain.metrics.calibration import calibration as judged_calibration
from facetrain.metrics.noise import noise_detection

_MEANINGS = {
    Reason.NOT_JUDGED: "without an embedding or a label, or a person has decided",
    Reason.CLEAN: "belongs to its identity",
    Reason.OTHER_IDENTITY: "belongs to another identity of the set: closed-set noise",
    Reason.NOBODY: "belongs to nobody in the set: open-set noise",
    Reason.HARD: "its own identity explains it best, though far off: profile, blur, cover",
    Reason.AMBIGUOUS: "two identities have about an equal claim to it",
    Reason.COPY: "the very image is in the set already",
}


class Row(NamedTuple):
    """One line of a table about images."""

    what: str
    meaning: str
    num_images: int
    truth: str = ""  # how right that was, where it is known


class Outcome(NamedTuple):
    """What a training after the cleaning does with each image: one of three flags (N,) is set."""

    kept: Bools  # under the given label
    moved: Bools  # under another one
    dropped: Bools

    @classmethod
    def of(cls, result: CleaningResult, cleaned: CleanedSet | None) -> "Outcome":
        """By the cleaner's overlay; by its decisions alone where the data set is not here."""
        if cleaned is None:
            return cls(result.kept, np.zeros_like(result.kept), ~result.kept)
        moved = cleaned.kept_after & (cleaned.label_after != cleaned.dataset.label)
        return cls(cleaned.kept_after & ~moved, moved, ~cleaned.kept_after)


def outcome_rows(result: CleaningResult, cleaned: CleanedSet | None) -> list[Row]:
    """How many images keep their label, get another one, and are dropped.

    Args:
        cleaned: the same with its data set, for what was moved and for the truth.
    """
    outcome, noise_in = Outcome.of(result, cleaned), _truth(cleaned)
    rows = [Row("kept as labelled", "", _count(outcome.kept), noise_in(outcome.kept))]
    if outcome.moved.any():
        assert cleaned is not None
        right = cleaned.is_right(cleaned.label_after)
        truth = "" if right is None else f"{_count(outcome.moved & right):,} to the right one"
        rows.append(Row("moved to another identity", "", _count(outcome.moved), truth))
    return [*rows, Row("dropped", "", _count(outcome.dropped), noise_in(outcome.dropped))]


def reason_rows(result: CleaningResult, cleaned: CleanedSet | None) -> list[Row]:
    """How many images have each reason; those that no image has are left out."""
    noise_in, rows = _truth(cleaned), []
    for number, name in enumerate(result.reason_names):
        which = result.reason == number
        if not which.any():
            continue
        known = number < len(REASON_NAMES) and name == REASON_NAMES[number]
        meaning = _MEANINGS[Reason(number)] if known else ""
        truth = noise_in(which)
        if cleaned is not None and number == Reason.OTHER_IDENTITY:
            right = cleaned.is_right(cleaned.suggested)
            truth = "" if right is None else f"{_count(which & right):,} rightly"
        rows.append(Row(name, meaning, _count(which), truth))
    return rows


def finding_rows(result: CleaningResult, cleaned: CleanedSet | None) -> list[Row]:
    """Further findings, on which only a person acts; those without an image are left out."""
    rows = [
        Row("copies", "of an image earlier in the set", _count(result.duplicate_of >= 0)),
        Row(
            "one person under two names",
            "images of identities that should be merged with another one",
            _count(result.merge_label >= 0),
        ),
        Row(
            "also in an evaluation set",
            "images of identities to leave out for an honest number",
            _count(result.overlap),
        ),
    ]
    if cleaned is not None:
        swapped = cleaned.swaps().size
        rows.append(Row("swapped", "two images, each of the other's identity", swapped))
    return [row for row in rows if row.num_images]


def _truth(cleaned: CleanedSet | None) -> Any:
    """A function: which images (N,) -> how much noise is among them, in words."""
    is_clean = None if cleaned is None else cleaned.is_clean

    def noise_in(which: Bools) -> str:
        if is_clean is None:
            return ""
        noise = _count(which & ~is_clean)
        return f"{noise:,} noise, {_count(which) - noise:,} clean"

    return noise_in


def _count(which: Bools) -> int:
    return int(np.count_nonzero(which))


def calibration(cleaned: CleanedSet) -> Calibration | None:
    """The calibration of the probabilities of all judged images; None without the truth."""
    is_clean, judged = cleaned.is_clean, cleaned.result.reason != Reason.NOT_JUDGED
    if is_clean is None or not judged.any():
        return None
    return judged_calibration(cleaned.result.clean_probability[judged], is_clean[judged])


def noise_numbers(cleaned: CleanedSet) -> dict[str, Any] | None:
    """What of the known noise was found, and how many of the suggested labels are right.

    The numbers of `NoiseDetection` with `num_suggested`, `num_suggested_right` and
    `expected_calibration_error`; None where the truth is not known.
    """
    is_clean, right = cleaned.is_clean, cleaned.is_right(cleaned.suggested)
    calibrated = calibration(cleaned)
    if is_clean is None or right is None:
        return None
    found = noise_detection(cleaned.result.clean_probability, cleaned.result.kept, is_clean)
    return found.numbers() | {
        "num_suggested": int((cleaned.suggested >= 0).sum()),
        "num_suggested_right": int(np.count_nonzero(right)),
        "expected_calibration_error": None if calibrated is None else calibrated.expected_error,
    }


def noise_rows(numbers: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and the one row of `noise_numbers`, for a table."""
    columns = {
        "images": "num_images",
        "noise": "num_noise",
        "found": "num_found",
        "missed": "num_missed",
        "wrongly dropped": "num_wrongly_dropped",
        "precision": "precision",
        "recall": "recall",
        "F1": "f1",
        "suggested": "num_suggested",
        "rightly": "num_suggested_right",
        "ECE": "expected_calibration_error",
    }
    return list(columns), [[_cell(numbers[name]) for name in columns.values()]]


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
