"""Classes whose person also is in an evaluation set."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.kept_centres import kept_centres
from facetrain.clean.labelled_set import LabelledSet

_MARGIN = 0.1
_SLACK = 0.2
_ALONE = 0.75
_PRODUCTS_AT_ONCE = 1 << 24


class Overlap(NamedTuple):
    """What an evaluation set has in common with C classes."""

    level: Tensor  # (C,) of the evaluation image most alike, on `Scale`; -inf without kept images
    flagged: Tensor  # (C,) bool


def overlapping(
    labelled: LabelledSet,
    kept: Tensor,
    other_embedding: NDArray[np.floating],
    merge: Tensor,
) -> Overlap:
    """Which classes are of a person in the evaluation set, and how alike each comes.

    A class is flagged for an evaluation image that is more like it than like any other person, by
    _MARGIN, and as like as its own images are to each other, to _SLACK; a class of one image has no
    such measure and asks for _ALONE. A level alone does not do: the most alike of thousands of
    strangers passes for the same person in a class of one image (dlib at 0.75: precision 0.27).
    Classes that `merge` holds for one person do not rival each other, and are flagged together.
    Costs M * C * D.

    LFW: half of the images of a third of the identities with two or more images, and some 1,200
    other identities, as evaluation set (3,062 and 3,535 images) against 2,841 classes; precision /
    recall for classes of one image, of 2 to 4, of more, lowest of two splits: 0.88 / 0.77,
    0.96 / 0.91, 0.98 / 0.98 (MobileFaceNet), 0.81 / 0.73, 0.98 / 0.86, 0.98 / 0.98 (dlib).

    Args:
        labelled: C classes.
        kept: (num_images,) bool.
        other_embedding: (M, D) of the evaluation images, by the same backbone.
        merge: (C,) as `split_identities` gives it; -1 everywhere for none.
    """
    centres = kept_centres(labelled, kept)
    class_id = labelled.classes.class_id.to(merge.device)
    itself = torch.arange(len(class_id), device=merge.device)
    person = torch.searchsorted(class_id, merge.clamp(min=0)).where(merge >= 0, itself)  # (C,)
    usual = labelled.scale(centres.within)
    least = (usual - _SLACK).where(centres.num_kept > 1, _ALONE)
    highest = torch.full_like(least, -torch.inf)
    overlap = torch.zeros_like(person, dtype=torch.bool)  # by person
    rows_at_once = max(1, _PRODUCTS_AT_ONCE // len(class_id))
    for start in range(0, len(other_embedding), rows_at_once):
        other = labelled.embedded.centred(other_embedding[start : start + rows_at_once])
        level = labelled.scale(other @ centres.mean.T).where(centres.num_kept > 0, -torch.inf)
        best, place = level.max(1)  # (m,)
        rival = level.where(person != person[place][:, None], -torch.inf).amax(1)
        certain = (best >= least[place]) & (best >= rival + _MARGIN)
        overlap[person[place[certain]]] = True
        highest = torch.maximum(highest, level.amax(0))
    return Overlap(highest, overlap[person] & (centres.num_kept > 0))
