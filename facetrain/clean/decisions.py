"""What a posterior means for a data set: decisions with reasons, an overlay, numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.double_names import double_names
from facetrain.clean.evaluation_faces import in_evaluation_set
from facetrain.clean.exchanges import exchanged
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.near_duplicates import near_duplicates
from facetrain.clean.posterior import Posterior
from facetrain.data.cleaning_result import REASON_NAMES, CleaningResult, Reason
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.metrics.noise import noise_detection

_HALF = 0.5
_STAYS = 0.51
"""At least of the other image in a class of two of which one moves."""


@torch.no_grad()
def result_of(
    found: Posterior, excluded: Sequence[NDArray[np.floating]], seed: int = 0
) -> CleaningResult:
    """Decisions and reasons, in the numbers that the labelled set has for its classes.

    An image is kept where its label is more likely right than not, or verified: then it is not
    judged. Two images that changed places between classes move; in a class of two the other image
    could as well be the one that moved, so their labels are right with a probability of about 1/2.

    Args:
        excluded: embeddings (M, D) of evaluation sets.
        seed: of the hypotheses that are planted.
    """
    labelled = found.labelled
    place, class_id = labelled.place_of_row, labelled.classes.class_id.to(labelled.place_of_row)
    present = place >= 0
    swaps = exchanged(found, seed)  # (2, E)
    mended = place.index_put((swaps,), place[swaps.flip(0)])
    members = found.members_by_label(mended)
    person = double_names(found, members, seed)
    overlap = torch.zeros_like(person, dtype=torch.bool)
    for embedding in excluded:
        overlap |= in_evaluation_set(found, members, person, embedding)

    probability = found.probability[:, 0]
    other, slot = found.probability[:, 1:].max(1)
    goes = found.place[:, 1:].gather(1, slot[:, None])[:, 0]  # the likeliest other class
    moves = torch.zeros_like(present).index_fill(0, swaps.flatten(), True)
    left = torch.zeros_like(overlap).index_fill(0, place[moves], True)
    stays = (labelled.size_of_row() == 2) & left[place.clamp(min=0)] & ~moves
    stays |= _first_of_two_lone(labelled, goes.where(probability <= _HALF, -1))
    goes = goes.index_put((swaps,), place[swaps.flip(0)])
    other = torch.where(moves, other.clamp(min=_HALF), other)
    probability = torch.where(moves, probability.clamp(max=_HALF), probability)
    probability = torch.where(stays, probability.clamp(min=_STAYS), probability)

    judged = present & ~labelled.verified
    kept = (probability > _HALF) | ~judged
    elsewhere = ~kept & (goes >= 0) & ((other >= found.nobody) | moves)
    # As likely of the other class as of its own: whose it is, is open.
    ambiguous = judged & (goes >= 0) & (probability < 2 * other) & (other < 2 * probability)
    ambiguous &= (torch.maximum(probability, other) > found.nobody) & ~moves & ~stays
    suggested = (elsewhere | ambiguous) & judged
    copies = near_duplicates(labelled.embedded, labelled.label_of_row)
    reason = torch.full_like(place, Reason.CLEAN)
    reason[(found.hard > _HALF) & ~stays] = Reason.HARD
    reason[copies >= 0] = Reason.COPY
    reason[~kept] = Reason.NOBODY
    reason[elsewhere] = Reason.OTHER_IDENTITY
    reason[ambiguous] = Reason.AMBIGUOUS
    reason[~judged] = Reason.NOT_JUDGED

    def named(of_class: Tensor, where: Tensor) -> NDArray[np.int64]:
        label = class_id[of_class.clamp(min=0)].where(where, -1)
        return label.cpu().numpy()

    own = place.clamp(min=0)
    return CleaningResult(
        clean_probability=probability.where(present, 1.0).float().cpu().numpy(),
        kept=kept.cpu().numpy(),
        suggested_label=named(goes, suggested),
        suggested_probability=other.where(suggested, 0.0).float().cpu().numpy(),
        reason=reason.to(torch.uint8).cpu().numpy(),
        merge_label=named(person[own], judged & (person[own] != own)),
        duplicate_of=copies.cpu().numpy(),
        overlap=(overlap[own] & present).cpu().numpy(),
        class_id=class_id.cpu().numpy(),
        threshold=np.full(len(class_id), _HALF, np.float32),
    )


def _first_of_two_lone(labelled: LabelledSet, goes: Tensor) -> Tensor:
    """(num_images,) bool, the first of two images alone in their classes that go to each other.

    One person under two names, each with one image: one name has to stay. `goes` holds the class
    (num_images,) that each image goes to, -1 for none.
    """
    place, lone = labelled.place_of_row, labelled.size_of_row() == 1
    to = torch.full_like(labelled.size, -1)  # (C,) where the one image of a class goes
    to[place[lone]] = goes[lone]
    back = to[goes.clamp(min=0)].where(goes >= 0, -1)
    return lone & (back == place) & (place < goes)


def overlay(result: CleaningResult, dataset: FaceDataset, apply_suggestions: bool) -> LabelOverlay:
    """The cleaner's opinion over all rows of the data set, none of those that it did not judge.

    Args:
        result: of the data set's images, in its class ids.
        apply_suggestions: keep a dropped image under the label suggested for it, where that is
            more likely than not.
    """
    judged = result.reason != Reason.NOT_JUDGED
    given, kept = np.where(judged, dataset.class_ids[dataset.label], -1), result.kept | ~judged
    if apply_suggestions:
        moved = (result.suggested_label >= 0) & (result.suggested_probability >= _HALF)
        given, kept = np.where(moved, result.suggested_label, given), kept | moved

    def column(value: NDArray[Any], absent: Any) -> NDArray[Any]:
        full = np.full(dataset.num_rows, absent, value.dtype)
        full[dataset.row] = value
        return full

    copied = result.duplicate_of
    return LabelOverlay.make(
        column(given, -1),
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
