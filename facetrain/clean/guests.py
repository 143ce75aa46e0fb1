"""Kept images that are together in a class, but at home in another."""

import torch
from torch import Tensor

from facetrain.clean.kept_centres import kept_centres
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.suggestions import home

_ROWS_AT_ONCE = 1 << 12


def guests(labelled: LabelledSet, kept: Tensor, weight: Tensor) -> Tensor:
    """The kept images of classes of which they are less than half, all at home in others.

    (num_images,) bool. Two or three images of a person with a class of their own, who by chance are
    in one more, are a group there, and the cleaner believes them where the rest of the class is
    scattered. `homes` does not see it: they are a good part of the class's centre themselves. Here
    each must have its `home` elsewhere, their own class having no say. Classes in which such images
    are half or more are left alone: they may be the same person under another name
    (`split_identities`). Ours, not ADC's. Costs K^2 for each image looked at and a pass over the
    kept embeddings.

    On LFW features of 125 people (the runs of `left_over`) it dropped 15 images, all noise; on the
    splits that had no part in making it one.

    Args:
        labelled: C classes.
        kept: (num_images,) bool.
        weight: (num_images,) belief in each label; 0 for what is not kept.
    """
    graphs = labelled.classes.to(kept.device)
    num_kept = graphs.sum(kept[graphs.row].long())  # (C,)
    few = (num_kept > 0) & (2 * num_kept < graphs.size)
    looked = graphs.row[few[graphs.label] & kept[graphs.row]]
    centres = kept_centres(labelled, kept)
    away = torch.zeros_like(kept)
    for row in torch.split(looked, _ROWS_AT_ONCE):
        away[row] = home(labelled, centres, row, weight, own_speaks=False) >= 0
    all_away = graphs.sum(away[graphs.row].long()) == num_kept
    found = torch.zeros_like(kept)
    found[graphs.row] = (all_away & few)[graphs.label]
    return found & kept
