"""What a cleaner says of a data set: arrays by image and class, an overlay, numbers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.near_duplicates import near_duplicates
from facetrain.clean.overlapping import overlapping
from facetrain.clean.split_identities import split_identities
from facetrain.clean.suggestions import suggest
from facetrain.data.cleaning_result import CleaningResult, Reason
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.metrics.noise import noise_detection


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What the cleaner says of N images and of the classes they are labelled with."""

    clean_probability: NDArray[np.float32]  # (N,) in [0, 1]
    threshold: NDArray[np.float32]  # (largest label + 1,), NaN for a class without images
    kept: NDArray[np.bool_]  # (N,) clean_probability > threshold[label]
    suggested_label: NDArray[np.int64]  # (N,) the class a dropped image belongs to, or -1
    merge_label: NDArray[np.int64]  # (N,) the class that the image's own should join, or -1
    duplicate_of: NDArray[np.int64]  # (N,) an earlier image that this one copies, or -1
    overlap: NDArray[np.bool_]  # (N,) the class is also in an evaluation set
    undecided: NDArray[np.bool_]  # (N,) nothing tells whose class it is: probability 0.5, kept

    def result(
        self,
        label: NDArray[np.int64],
        class_ids: NDArray[np.int64],
        decided: NDArray[np.bool_] | None = None,
    ) -> CleaningResult:
        """The same in the labels that were given.

        Args:
            label: (N,) the labels that were judged, from 0 up; -1 where nothing is said.
            class_ids: (largest label + 1,) what the set calls them.
            decided: (N,) images of which a person has spoken.
        """
        reason = np.where(self.kept, Reason.CLEAN, Reason.NOBODY)
        reason[~self.kept & (self.suggested_label >= 0)] = Reason.OTHER_IDENTITY
        reason[self.undecided] = Reason.AMBIGUOUS
        reason[(label < 0) | (False if decided is None else decided)] = Reason.NOT_JUDGED

        def given(dense: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.where(dense >= 0, class_ids[dense], -1)

        judged = np.flatnonzero(~np.isnan(self.threshold))
        return CleaningResult(
            self.clean_probability,
            self.kept,
            given(self.suggested_label),
            np.where(self.suggested_label >= 0, 1 - self.clean_probability, 0).astype(np.float32),
            reason.astype(np.uint8),
            given(self.merge_label),
            self.duplicate_of,
            self.overlap,
            class_ids[judged],
            self.threshold[judged],
        )


def answer(
    labelled: LabelledSet,
    probability: Tensor,
    threshold: Tensor,
    unknown: Tensor,
    excluded: Sequence[NDArray[np.floating]],
) -> Cleaned:
    """What follows from probabilities (num_images,) and thresholds (C,)."""
    graphs = labelled.classes.to(probability.device)
    label = labelled.label_of_row
    placed = by_label(labelled, threshold)
    kept = (probability > placed[label.clamp(min=0)]) | (label < 0)
    merge = split_identities(labelled, kept)
    overlap = torch.zeros_like(unknown)
    for embedding in excluded:
        overlap |= overlapping(labelled, kept, embedding, merge).flagged

    def by_row(value: Tensor) -> NDArray[Any]:
        column = torch.zeros(len(label), dtype=value.dtype, device=value.device)
        column[graphs.row] = value[graphs.label]
        found: NDArray[Any] = column.cpu().numpy()
        return found

    return Cleaned(
        clean_probability=probability.float().cpu().numpy(),
        threshold=placed.float().cpu().numpy(),
        kept=kept.cpu().numpy(),
        suggested_label=suggest(labelled, probability, kept).cpu().numpy(),
        merge_label=by_row(merge),
        duplicate_of=near_duplicates(labelled.embedded, label).cpu().numpy(),
        overlap=by_row(overlap),
        undecided=by_row(unknown),
    )


def by_label(labelled: LabelledSet, of_class: Tensor) -> Tensor:
    """A number of each class (C,) at the place of its label, NaN at the others."""
    label = labelled.label_of_row
    placed = torch.full((int(label.max()) + 1,), torch.nan, device=label.device)
    placed[labelled.classes.class_id.to(label.device)] = of_class
    return placed


def overlay(
    cleaned: Cleaned,
    label: NDArray[np.int64],
    dataset: FaceDataset,
    apply_suggestions: bool,
    decided: NDArray[np.bool_] | None = None,
) -> LabelOverlay:
    """The cleaner's opinion over all rows of the data set, in its original labels.

    Rows that the data set's own overlays leave out stay as these have them.

    Args:
        label: (N,) dense labels that were judged; -1 for images about which nothing is said.
        apply_suggestions: keep a dropped image under the label suggested for it.
        decided: (N,) images of which a person has spoken; nothing is said of them either.
    """
    if decided is None:
        decided = np.zeros(len(label), np.bool_)
    judged, suggested = (label >= 0) & ~decided, np.where(decided, -1, cleaned.suggested_label)
    given, kept = dataset.label, cleaned.kept | ~judged
    if apply_suggestions:
        given, kept = np.where(suggested >= 0, suggested, given), kept | (suggested >= 0)

    def original(dense: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(dense >= 0, dataset.class_ids[dense], -1)

    def column(value: NDArray[Any], absent: Any) -> NDArray[Any]:
        full = np.full(dataset.num_rows, absent, value.dtype)
        full[dataset.row] = value
        return full

    copied = cleaned.duplicate_of
    return LabelOverlay.make(
        column(np.where(decided, -1, original(given)), -1),
        column(kept, True),
        clean_probability=column(np.where(judged, cleaned.clean_probability, np.nan), np.nan),
        suggested_label=column(original(suggested), -1),
        merge_label=column(original(cleaned.merge_label), -1),
        duplicate_of=column(np.where(copied >= 0, dataset.row[copied], -1), -1),
        overlap=column(cleaned.overlap, False),
        source=column(judged.astype(np.uint8), 0),
        source_names=("", "clean"),
        dataset_fingerprint=dataset.base_fingerprint,
    )


def numbers_of(
    cleaned: Cleaned, label: NDArray[np.int64], is_clean: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """The stage's numbers; with the truth, how well the noise was found."""
    numbers: dict[str, Any] = {
        "num_images": len(label),
        "num_classes": len(np.unique(label[label >= 0])),
        "num_kept": int(cleaned.kept.sum()),
        "num_dropped": int((~cleaned.kept).sum()),
        "num_suggested": int((cleaned.suggested_label >= 0).sum()),
        "num_duplicates": int((cleaned.duplicate_of >= 0).sum()),
        "num_merges": len(np.unique(label[cleaned.merge_label >= 0])),
        "num_undecided_classes": len(np.unique(label[cleaned.undecided])),
        "num_overlapping_classes": len(np.unique(label[cleaned.overlap])),
        "mean_threshold": float(np.nanmean(cleaned.threshold)),
    }
    if is_clean is not None:
        numbers |= noise_detection(cleaned.clean_probability, cleaned.kept, is_clean).numbers()
    return numbers
