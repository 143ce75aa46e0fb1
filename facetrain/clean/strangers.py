"""Classes whose kept images are all of different people."""

import torch
from torch import Tensor

from facetrain.clean.kept_centres import kept_centres
from facetrain.clean.labelled_set import LabelledSet

_LEAST_IMAGES = 3
_ALIKE = 0.45
_NODES_AT_ONCE = 1 << 14


def strangers(labelled: LabelledSet, kept: Tensor) -> Tensor:
    """The kept images of classes in which no two of them are alike, (num_images,) bool.

    A class has one person. Where two or more images are kept of which no two reach a level of
    _ALIKE, at most one is right and nothing tells which. Where most of a class has homes elsewhere
    the cleaner believes what is left over, and may keep two people. Classes of two images are
    `undecided`'s. Of an image of more than K others of its class the K nearest are looked at.
    Ours, not ADC's. Costs a pass over the kept embeddings.

    LFW: in each of the 629 classes of three or more images some pair reaches 0.61, on either
    embedding. On sets of 125 people (the runs of `left_over`) it dropped 19 images, 14 of them
    noise; on the splits that had no part in making it 9, 5 of them noise.

    Args:
        labelled: C classes.
        kept: (num_images,) bool.
    """
    classes = labelled.classes.to(kept.device)
    centres = kept_centres(labelled, kept)
    # Where the mean pair is alike some pair is: only the others are looked into. Below two kept
    # images it is NaN, which is under nothing.
    doubtful = (labelled.scale(centres.within) < _ALIKE) & (classes.size >= _LEAST_IMAGES)
    found = torch.zeros_like(kept)
    for run in labelled.cut(_NODES_AT_ONCE):
        chosen = run[doubtful[run.to(kept.device)].to(run.device)]
        if len(chosen) == 0:
            continue
        piece = labelled.piece(chosen)
        here = kept[piece.graphs.row]
        alike = here[piece.neighbour.clamp(min=0)] & (piece.neighbour >= 0)
        alike &= labelled.scale(piece.similarity) >= _ALIKE
        pairs = piece.graphs.sum((here & alike.any(1)).long())
        found[piece.graphs.row] = here & (pairs == 0)[piece.graphs.label]
    return found
