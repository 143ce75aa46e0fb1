"""Source data for a user who has none: the target's own most consistent classes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.labelled_set import LabelledSet, Piece

_NEAR = 0.6
_LEAST_IMAGES = 4
_NODES_AT_ONCE = 1 << 17


@torch.no_grad()
def most_consistent(labelled: LabelledSet) -> NDArray[np.bool_]:
    """Images whose labels can be believed without a cleaner, (num_images,).

    Of each class the images near its densest place, where they are nearly the whole class: the
    half of the classes with the largest such share. The mean of a class would not do, nor what
    links connect: with two people in it the mean lies between them, and one odd image is a bridge.
    What noise is left is learned as clean, so the choice is narrow; but not so narrow that only
    easy images are left (asking the global graph for a home as well cost 0.07 of F1).
    """
    trusted = torch.zeros(labelled.num_images, dtype=torch.bool)
    shares, rows = [], []
    for classes in labelled.cut(_NODES_AT_ONCE):
        piece = labelled.piece(classes)
        graphs = piece.graphs
        near = labelled.scale(_to_densest(piece)) > _NEAR
        count = graphs.sum(near.float())
        share = (count / graphs.size).where(count >= _LEAST_IMAGES, 0.0)
        shares.append(share.cpu())
        rows.append((graphs.row[near].cpu(), share[graphs.label][near].cpu()))
    share = torch.cat(shares)
    possible = share[share > 0]
    if len(possible) == 0:
        return trusted.numpy()
    least = possible.median()
    for row, of_class in rows:
        trusted[row[of_class >= least]] = True
    return trusted.numpy()


def _to_densest(piece: Piece) -> Tensor:
    """Cosine (N,) to the densest place of the class.

    The image whose nearest third of the class lies closest around it, with that third: their mean.
    """
    graphs, unit = piece.graphs, piece.unit_embedding
    width = piece.neighbour.shape[1]
    third = (graphs.size[graphs.label] // 3).clamp(1, width)  # (N,)
    inside = torch.arange(width, device=unit.device) < third[:, None]
    inside &= piece.neighbour >= 0
    density = (piece.similarity * inside).sum(1) / inside.sum(1).clamp(min=1)
    order = torch.argsort(density, descending=True, stable=True)
    order = order[torch.argsort(graphs.label[order], stable=True)]
    middle = order[graphs.start[:-1]]  # (C,) the densest node of each class
    around = unit[piece.neighbour[middle].clamp(min=0)] * inside[middle][:, :, None]
    centre = torch.nn.functional.normalize(unit[middle] + around.sum(1))  # (C, D)
    return (unit * centre[graphs.label]).sum(1)
