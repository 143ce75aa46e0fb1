"""Images that are copies of one another: the same photograph, cut or stored anew."""

import torch
from torch import Tensor

from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.links import linked_groups

_COPY = 0.975  # cosine of centred embeddings (docs/log.md)
_ROUNDING = 0.01
_ROWS_AT_ONCE = 1 << 14


def near_duplicates(embedded: EmbeddedSet, label: Tensor) -> Tensor:
    """The smallest row of the group of copies each image belongs to, (N,); -1 for that row itself.

    Copies under one label and under two are found alike. Copies of copies are one group. The graph
    may be stored in half precision, and centring magnifies its rounding (sevenfold under dlib): its
    cosines nominate, the embeddings decide.

    Args:
        embedded: N images.
        label: (N,) -1 for images that are absent.
    """
    pairs = []
    for row in torch.split(torch.nonzero(label >= 0)[:, 0], _ROWS_AT_ONCE):
        cosine, neighbour = embedded.context(row)
        likely = (cosine >= _COPY - _ROUNDING) & (neighbour >= 0) & (label[neighbour] >= 0)
        place, slot = likely.nonzero(as_tuple=True)
        first, second = row[place], neighbour[place, slot]
        exact = (embedded.rows(first) * embedded.rows(second)).sum(1)
        pairs.append(torch.stack([first, second])[:, exact >= _COPY])
    smallest = linked_groups(len(label), *torch.cat(pairs, 1))
    row = torch.arange(len(label), device=label.device)
    return smallest.where(smallest != row, -1)
