"""Source data for a user who has none: the target's own most consistent classes."""

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.clean.labelled_set import LabelledSet
from facetrain.graph.class_graphs import components

_LINK = 0.5
_NEAR_CENTRE = 0.5
_LEAST_IMAGES = 4
_NODES_AT_ONCE = 1 << 17


@torch.no_grad()
def most_consistent(labelled: LabelledSet) -> NDArray[np.bool_]:
    """Images whose labels can be believed without a cleaner, (num_images,).

    Of each class the largest group of linked images, as far as it lies near the class's centre,
    where that is nearly the whole class: the half of the classes with the largest such share.
    What noise is left among them is learned as clean, so they are chosen narrowly.
    """
    trusted = torch.zeros(labelled.num_images, dtype=torch.bool)
    shares, rows = [], []
    for classes in labelled.cut(_NODES_AT_ONCE):
        piece = labelled.piece(classes)
        graphs, unit = piece.graphs, piece.unit_embedding
        linked = (piece.neighbour >= 0) & (labelled.scale(piece.similarity) > _LINK)
        name = components(piece.neighbour, linked)
        size = torch.bincount(name, minlength=graphs.num_nodes)[name]
        rank = size * graphs.num_nodes - name  # of two groups as large, one is the largest
        largest = graphs.max(rank)[graphs.label] == rank
        centre = torch.nn.functional.normalize(graphs.sum(unit * largest[:, None]))
        near = labelled.scale((unit * centre[graphs.label]).sum(1)) > _NEAR_CENTRE
        good = largest & near
        count = graphs.sum(good.float())
        share = (count / graphs.size).where(count >= _LEAST_IMAGES, 0.0)
        shares.append(share.cpu())
        rows.append((graphs.row[good].cpu(), share[graphs.label][good].cpu()))
    share = torch.cat(shares)
    possible = share[share > 0]
    if len(possible) == 0:
        return trusted.numpy()
    least = possible.median()
    for row, of_class in rows:
        trusted[row[of_class >= least]] = True
    return trusted.numpy()
