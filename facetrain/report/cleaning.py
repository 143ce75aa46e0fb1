"""What a cleaning stage decided, image by image, and how right it was where the truth is known."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import Artifact
from facetrain.core.errors import DataError
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.metrics.noise import noise_detection

TRUTH_FILE = "truth.npz"

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
    def read(cls, stage: Artifact) -> "Cleaning":
        """The arrays of a finished stage `clean`."""
        names = [field.name for field in dataclasses.fields(cls)]
        with np.load(stage.path / "clean.npz", allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in names})


@dataclasses.dataclass(frozen=True)
class CleanedSet:
    """The data set that was cleaned, what was decided, and the truth where it is known."""

    cleaning: Cleaning
    dataset: FaceDataset
    true_label: Ints | None  # (N,) class ids

    @classmethod
    def open(
        cls, stage: Artifact, data: DataConfig, dataset: FaceDataset | None = None
    ) -> "CleanedSet":
        """The finished stage `clean` of this data set with these overlays.

        Args:
            stage: of the kind `clean`.
            data: what was cleaned.
            dataset: the same, if it is open.

        Raises:
            DataError: the data set or the truth cannot be read, or is of other images.
        """
        if dataset is None:
            dataset = FaceDataset.open(data.path, data.overlay, on_corrupt=data.on_corrupt)
        cleaning = Cleaning.read(stage)
        if len(cleaning.kept) != dataset.num_images:
            raise DataError(
                f"{stage.path}: must be of the {dataset.num_images} images of {data.path} with its "
                f"overlays, but is of {len(cleaning.kept)}; clean again"
            )
        return cls(cleaning, dataset, read_true_label(dataset, data.overlay))

    @property
    def is_clean(self) -> Bools | None:
        """Whether each label is right, (N,), where that is known."""
        return self.is_right(self.dataset.label)

    def is_right(self, label: Ints) -> Bools | None:
        """Whether other labels (N,), from 0 up, would be right, (N,), where that is known."""
        if self.true_label is None:
            return None
        is_right: Bools = self.dataset.class_ids[label] == self.true_label
        return is_right & (label >= 0)

    def noise_numbers(self) -> dict[str, Any] | None:
        """What of the known noise was found, and how many of the suggested labels are right.

        The numbers of `NoiseDetection` with `num_suggested` and `num_suggested_right`; None
        where the truth is not known.
        """
        is_clean, cleaning = self.is_clean, self.cleaning
        right = self.is_right(cleaning.suggested_label)
        if is_clean is None or right is None:
            return None
        found = noise_detection(cleaning.clean_probability, cleaning.kept, is_clean)
        return found.numbers() | {
            "num_suggested": int((cleaning.suggested_label >= 0).sum()),
            "num_suggested_right": int(np.count_nonzero(right)),
        }


def read_true_label(dataset: FaceDataset, overlay: Sequence[Path]) -> Ints | None:
    """The class ids that the images should have, (N,), or None where nobody knows.

    `facetrain corrupt` leaves `truth.npz` beside the overlay it writes; there it is found again.
    """
    for one in overlay:
        file = (one if one.is_dir() else one.parent) / TRUTH_FILE
        if not file.is_file():
            continue
        try:
            with np.load(file, allow_pickle=False) as arrays:
                true_label: Ints = arrays["true_label"]
        except Exception as error:  # a damaged archive may raise anything
            raise DataError(f"{file}: must be an .npz with true_label; {error}") from None
        if true_label.shape != (dataset.num_rows,):
            raise DataError(
                f"{file}: true_label must cover the {dataset.num_rows} images of the data set, "
                f"got {true_label.shape}; it belongs to another one, move it away"
            )
        return true_label[dataset.row]
    return None


def noise_rows(numbers: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and the one row of what was found, for a table.

    Args:
        numbers: as `CleanedSet.noise_numbers` gives them.
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
