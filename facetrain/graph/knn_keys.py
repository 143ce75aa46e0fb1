"""(similarity, index) as one int64 that sorts as neighbours do: more alike first, then by index.

One number per candidate makes "the best K" a plain top-k, with a result that does not depend on
how the data was cut into tiles.
"""

import torch
from torch import Tensor

NOTHING = -(2**63)
"""The key of no neighbour: after every real one."""

MAX_ROWS = 2**32 - 1
"""Indices take 32 bits of a key."""

_SAME_FROM = 1.0 - 2.0**-20


def snap(similarity: Tensor) -> Tensor:
    """float32 `similarity` with everything from 1 - 2^-20 on made exactly 1.

    Sums of float32 products leave the cosine of two copies anywhere within about 1e-6 of 1; here
    copies tie, and no cosine is above 1.
    """
    return torch.where(similarity >= _SAME_FROM, 1.0, similarity)


def below(bound: Tensor) -> Tensor:
    """The largest float32 that every similarity reaching `bound` after `snap` is above."""
    return torch.nextafter(bound.clamp(max=_SAME_FROM), torch.full_like(bound, -torch.inf))


def pack(similarity: Tensor, index: Tensor) -> Tensor:
    """Keys int64 of snapped float32 similarities and indices; larger is the nearer neighbour."""
    bits = (snap(similarity) + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are one similarity
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    return (ordered.long() << 32) | (MAX_ROWS - index)


def unpack(key: Tensor) -> tuple[Tensor, Tensor]:
    """(index int64, similarity float32) of keys; -1 and 0 for NOTHING."""
    ordered = (key >> 32).int()
    similarity = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    nothing = key == NOTHING
    index = torch.where(nothing, -1, MAX_ROWS - (key & MAX_ROWS))
    return index, torch.where(nothing, 0.0, similarity)
