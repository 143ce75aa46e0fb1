"""The mean of each class's kept images."""

from typing import NamedTuple

import torch
from torch import Tensor

from facetrain.clean.labelled_set import LabelledSet

_ROWS_AT_ONCE = 1 << 16


class KeptCentres(NamedTuple):
    """What the kept images of C classes have in common."""

    mean: Tensor  # (C, D) of centred unit embeddings; zero where nothing is kept
    num_kept: Tensor  # (C,)
    within: Tensor  # (C,) mean cosine over all pairs of kept images; NaN below two images


def kept_centres(labelled: LabelledSet, kept: Tensor) -> KeptCentres:
    """Means and tightness of all classes, in one pass over the embeddings.

    The means are not brought to length 1: the product of two of them is then the mean cosine over
    all pairs of their images, and an image's with one its mean cosine to the class. `Scale` reads
    these whatever the sizes of the classes are; cosines of centres rise with them.

    Args:
        labelled: C classes.
        kept: (num_images,) bool.
    """
    classes = labelled.classes.to(labelled.embedded.device)
    kept = kept[classes.row]
    total = torch.zeros_like(labelled.embedded.rows(classes.row[:1])).repeat(classes.num_classes, 1)
    for node in torch.split(torch.nonzero(kept)[:, 0], _ROWS_AT_ONCE):
        total.index_add_(0, classes.label[node], labelled.embedded.rows(classes.row[node]))
    num_kept = classes.sum(kept.long())
    pairs = num_kept * (num_kept - 1)
    within = ((total**2).sum(1) - num_kept) / pairs.where(pairs > 0, torch.nan)
    return KeptCentres(total / num_kept.clamp(min=1)[:, None], num_kept, within)
