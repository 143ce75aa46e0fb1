"""What there is to review in a run: its data set, and what the cleaner says of every image."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.run_folder import CLASSES_FILE
from facetrain.data.cleaned_set import CleanedSet, cleaned_data
from facetrain.data.cleaning_result import Reason
from facetrain.data.dataset import FaceDataset

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class CleanedRun:
    """N images in the order of the data set, C identities numbered as it numbers them."""

    dataset: FaceDataset
    names: tuple[str, ...]  # (C,) what each identity is called; "" where nobody named it
    clean_probability: Floats  # (N,)
    threshold: Floats  # (C,)
    suggested: Ints  # (N,) the identity an image seems to be, or -1
    merge: Ints  # (C,) the identity that seems to be the same person, or -1
    duplicate_of: Ints  # (N,) an earlier image that this one copies, or -1
    undecided: Bools  # (N,)
    label: Ints  # (N,) where the cleaner puts the image
    kept: Bools  # (N,) whether it keeps the image, there

    @classmethod
    def open(cls, run_dir: Path) -> "CleanedRun":
        """Read the stage `clean` of a run and the data set it judged.

        Raises:
            DataError: the stage is not finished, its data set is not where it was, or is another.
        """
        cleaned, data = CleanedSet.open_run(run_dir), cleaned_data(run_dir)
        assert data is not None
        return cls(
            cleaned.dataset,
            _names(data.path, cleaned.dataset.class_ids),
            cleaned.result.clean_probability,
            cleaned.threshold,
            cleaned.suggested,
            cleaned.merge,
            cleaned.result.duplicate_of,
            cleaned.result.reason == Reason.AMBIGUOUS,
            cleaned.label_after,
            cleaned.kept_after,
        )


def _names(data: Path, class_ids: Ints) -> tuple[str, ...]:
    """From the `classes.json` that `facetrain pack` leaves, where there is one."""
    file = (data if data.is_dir() else data.parent) / CLASSES_FILE
    try:
        named = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: must be JSON, label -> name; {error}") from None
    return tuple(str(named.get(str(label), "")) for label in class_ids.tolist())
