"""What a posterior means for a data set: decisions with reasons, an overlay, numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.findings import (
    double_names,
    exchanged,
    in_evaluation_set,
    own_members,
)
from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.near_duplicates import near_duplicates
from facetrain.clean.posterior import Calibration, Posterior
from facetrain.data.cleaning_result import REASON_NAMES, CleaningResult, Reason
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.metrics.noise import noise_detection

_HALF = 0.5
_STAYS = 0.51
"""At least of the other image in a class of two of which one is told to move."""


@torch.no_grad()
def result_of(
    labelled: LabelledSet,
    model: IdentityModel,
    calibration: Calibration,
    found: Posterior,
    excluded: Sequence[NDArray[np.floating]],
    confirmed: Tensor | None = None,
    seed: int = 0,
) -> CleaningResult:
    """Decisions and reasons, in the numbers that `labelled` has for its classes.

    An image is kept where its label is more likely right than not. Two images that changed places
    between classes are told to move; in a class of two the other image could as well be the one
    that moved, so their labels are right with a probability of about 1/2.

    Args:
        excluded: embeddings (M, D) of evaluation sets.
        confirmed: (num_images,) bool, not judged.
        seed: of the hypotheses that are planted.
    """
    place, class_id = labelled.place_of_row, labelled.classes.class_id.to(labelled.place_of_row)
    swaps = exchanged(labelled, model, found, confirmed, seed)
    mended = place.clone()
    mended[swaps.first], mended[swaps.second] = place[swaps.second], place[swaps.first]
    members = own_members(labelled, model, found, mended)
    merges = double_names(labelled, model, found, members, seed)
    overlap = torch.zeros(len(class_id), dtype=torch.bool, device=place.device)
    for embedding in excluded:
        overlap |= in_evaluation_set(labelled, model, calibration, members, merges, embedding)

    moves = torch.zeros_like(place, dtype=torch.bool)
    moves[torch.cat(swaps)] = True
    stays = _beside(labelled, moves)
    other, slot = found.probability[:, 1:].max(1)
    goes = found.place[:, 1:].gather(1, slot[:, None])[:, 0]
    stays |= _first_of_two_lone(labelled, goes.where(found.probability[:, 0] <= _HALF, -1))
    probability = found.probability[:, 0].clone()
    probability = torch.where(moves, probability.clamp(max=_HALF), probability)
    probability = torch.where(stays, probability.clamp(min=_STAYS), probability)
    judged = place >= 0
    if confirmed is not None:
        judged &= ~confirmed
    kept = (probability > _HALF) | ~judged
    goes[swaps.first], goes[swaps.second] = place[swaps.second], place[swaps.first]
    other = torch.where(moves, other.clamp(min=_HALF), other)
    elsewhere = ~kept & (goes >= 0) & ((other >= found.nobody) | moves)
    # As likely of the other class as of its own: whose it is, is open.
    open_question = judged & (goes >= 0) & (probability < 2 * other) & (other < 2 * probability)
    open_question &= (torch.maximum(probability, other) > found.nobody) & ~moves & ~stays
    copies = near_duplicates(labelled.embedded, labelled.label_of_row)

    reason = torch.full_like(place, Reason.CLEAN)
    reason[(found.hard > _HALF) & ~stays] = Reason.HARD
    reason[copies >= 0] = Reason.COPY
    reason[~kept] = Reason.NOBODY
    reason[elsewhere] = Reason.OTHER_IDENTITY
    reason[open_question] = Reason.AMBIGUOUS
    reason[~judged] = Reason.NOT_JUDGED
    suggested = (elsewhere | open_question) & judged
    into = merges.into[place.clamp(min=0)].where(judged, -1)

    def named(of_class: Tensor) -> NDArray[np.int64]:
        label: NDArray[np.int64] = (
            class_id[of_class.clamp(min=0)].where(of_class >= 0, -1).cpu().numpy()
        )
        return label

    return CleaningResult(
        clean_probability=probability.where(place >= 0, 1.0).float().cpu().numpy(),
        kept=kept.cpu().numpy(),
        suggested_label=named(goes.where(suggested, -1)),
        suggested_probability=other.where(suggested, 0.0).float().cpu().numpy(),
        reason=reason.to(torch.uint8).cpu().numpy(),
        merge_label=named(into),
        duplicate_of=copies.cpu().numpy(),
        overlap=(overlap[place.clamp(min=0)] & (place >= 0)).cpu().numpy(),
        class_id=class_id.cpu().numpy(),
        threshold=np.full(len(class_id), _HALF, np.float32),
    )


def _beside(labelled: LabelledSet, moves: Tensor) -> Tensor:
    """(num_images,) bool, the other image of each class of two of which one moves."""
    place, size = labelled.place_of_row, labelled.classes.size.to(moves.device)
    left = torch.zeros_like(size, dtype=torch.bool)
    left[place[moves]] = True
    left &= size == 2
    return left[place.clamp(min=0)] & (place >= 0) & ~moves


def _first_of_two_lone(labelled: LabelledSet, goes: Tensor) -> Tensor:
    """(num_images,) bool, the first of two images alone in their classes that go to each other.

    One person under two names, each with one image: one name has to stay.

    Args:
        goes: (num_images,) the class each image goes to, -1 for none.
    """
    place = labelled.place_of_row
    size = labelled.classes.size.to(goes.device)
    lone = (size[place.clamp(min=0)] == 1) & (place >= 0)
    to = torch.full_like(size, -1)  # (C,) where the one image of a class goes
    to[place[lone]] = goes[lone]
    back = to[goes.clamp(min=0)].where(goes >= 0, -1)
    return lone & (back == place) & (place < goes)


def overlay(result: CleaningResult, dataset: FaceDataset, apply_suggestions: bool) -> LabelOverlay:
    """The cleaner's opinion over all rows of the data set.

    Rows that the data set's own overlays leave out, and images that were not judged, stay as they
    are.

    Args:
        result: of the data set's images, in its class ids.
        apply_suggestions: keep a dropped image under the label suggested for it, where that is
            more likely than not.
    """
    judged = result.reason != Reason.NOT_JUDGED
    given, kept = dataset.class_ids[dataset.label], result.kept | ~judged
    given = np.where(judged | (dataset.label >= 0), given, -1)
    if apply_suggestions:
        moved = (result.suggested_label >= 0) & (result.suggested_probability >= _HALF)
        given, kept = np.where(moved, result.suggested_label, given), kept | moved

    def column(value: NDArray[Any], absent: Any) -> NDArray[Any]:
        full = np.full(dataset.num_rows, absent, value.dtype)
        full[dataset.row] = value
        return full

    copied = result.duplicate_of
    return LabelOverlay.make(
        column(np.where(judged, given, -1), -1),
        column(kept, True),
        clean_probability=column(np.where(judged, result.clean_probability, np.nan), np.nan),
        suggested_label=column(result.suggested_label, -1),
        merge_label=column(result.merge_label, -1),
        duplicate_of=column(np.where(copied >= 0, dataset.row[copied], -1), -1),
        overlap=column(result.overlap, False),
        source=column(judged.astype(np.uint8), 0),
        source_names=("", "clean"),
        dataset_fingerprint=dataset.base_fingerprint,
    )


def numbers_of(
    result: CleaningResult, label: NDArray[np.int64], is_clean: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """The stage's numbers; with the truth, how well the noise was found."""
    numbers: dict[str, Any] = {
        "num_images": len(label),
        "num_classes": len(result.class_id),
        "num_kept": int(result.kept.sum()),
        "num_dropped": int((~result.kept).sum()),
        "num_suggested": int((result.suggested_label >= 0).sum()),
        "num_duplicates": int((result.duplicate_of >= 0).sum()),
        "num_merges": len(np.unique(label[result.merge_label >= 0])),
        "num_overlapping_classes": len(np.unique(label[result.overlap])),
    }
    count = np.bincount(result.reason, minlength=len(REASON_NAMES))
    for name, images in zip(REASON_NAMES, count.tolist(), strict=True):
        numbers[f"num_{name.replace(' ', '_')}"] = images
    if is_clean is not None:
        numbers |= noise_detection(result.clean_probability, result.kept, is_clean).numbers()
    return numbers
