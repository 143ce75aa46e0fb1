"""Groups of things that pairs join."""

import torch
from torch import Tensor

from facetrain.graph.class_graphs import components


def linked_groups(num_things: int, first: Tensor, second: Tensor) -> Tensor:
    """The smallest member of each thing's group, (num_things,); a thing without a pair is its own.

    `components` reads a table of equal rows. A pair stands in as a node numbered after all things
    and linked to its two, so that the table is two wide whatever the largest number of pairs is.

    Args:
        num_things: they are numbered from 0.
        first: (P,) of each pair.
        second: (P,).
    """
    pair = torch.stack([first, second], 1)  # (P, 2)
    neighbour = torch.cat([pair.new_zeros(num_things, 2), pair])
    linked = torch.ones_like(neighbour, dtype=torch.bool)
    linked[:num_things] = False
    return components(neighbour, linked)[:num_things]
