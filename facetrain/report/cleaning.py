"""What a cleaning stage decided, image by image, and how right it was where the truth is known."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import Artifact
from facetrain.core.run_folder import CLEAN_FILE
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import CleaningResult, Reason
from facetrain.metrics.noise import noise_detection

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """`clean.npz`: decisions about N images, in the order of their data set."""

    clean_probability: NDArray[np.float32]  # (N,)
    threshold: NDArray[np.float32]  # (num_classes,) NaN where there is no image
    kept: Bools  # (N,)
    suggested_label: Ints  # (N,) -1 for none
    merge_label: Ints  # (N,) the class that the image's own seems to be, or -1
    duplicate_of: Ints  # (N,) an earlier image that this one copies, or -1
    overlap: Bools  # (N,) the class is also in an evaluation set
    undecided: Bools  # (N,) nothing tells whose class it is: probability 0.5, kept

    @classmethod
    def of(cls, result: CleaningResult, cleaned: "CleanedSet | None" = None) -> "Cleaning":
        """What a cleaning says, classes by place where their data set is known."""
        label = result.merge_label if cleaned is None else cleaned.merge[cleaned.dataset.label]
        return cls(
            result.clean_probability,
            result.threshold if cleaned is None else cleaned.threshold,
            result.kept,
            result.suggested_label if cleaned is None else cleaned.suggested,
            label,
            result.duplicate_of,
            result.overlap,
            result.reason == Reason.AMBIGUOUS,
        )

    @classmethod
    def read(cls, stage: Artifact) -> "Cleaning":
        """The arrays of a finished stage `clean`."""
        return cls.of(CleaningResult.load(stage.path / CLEAN_FILE))


def noise_numbers(cleaned: CleanedSet) -> dict[str, Any] | None:
    """What of the known noise was found, and how many of the suggested labels are right.

    The numbers of `NoiseDetection` with `num_suggested` and `num_suggested_right`; None where
    the truth is not known.
    """
    is_clean, right = cleaned.is_clean, cleaned.is_right(cleaned.suggested)
    if is_clean is None or right is None:
        return None
    found = noise_detection(cleaned.result.clean_probability, cleaned.result.kept, is_clean)
    return found.numbers() | {
        "num_suggested": int((cleaned.suggested >= 0).sum()),
        "num_suggested_right": int(np.count_nonzero(right)),
    }


def noise_rows(numbers: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and the one row of what was found, for a table.

    Args:
        numbers: as `noise_numbers` gives them.
    """
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
    }
    return list(columns), [[_cell(numbers[name]) for name in columns.values()]]


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
