"""Sub-centres of a class: which one is dominant, and how far an image is from it.

Deng et al.: Sub-center ArcFace, ECCV 2020. With K centres a class, of which the nearest counts,
most clean images of a class gather at one, the dominant sub-centre, and wrong ones at the others
or nowhere. The paper's cleaning drops the images more than 75 degrees away from it and trains
again with one centre a class.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MEMORY = 0.98
"""Part of a class's votes that stays at a new one: the last fifty or so count."""
_BLOCK = 65536


@dataclass(frozen=True)
class SubCentreCleaning:
    """What sub-centres say of N labelled images."""

    kept: Tensor
    """(N,) bool."""
    cosine: Tensor
    """(N,) to the dominant sub-centre of the label."""
    dominant: Tensor
    """(num_classes,) int64: which sub-centre most of a class's images are nearest to."""


@torch.no_grad()
def drop_beyond(
    embedding: Tensor, label: Tensor, centre: Tensor, degrees: float = 75.0
) -> SubCentreCleaning:
    """Keep the images within `degrees` of their class's dominant sub-centre (section 3.4).

    The dominant sub-centre is the one that most images of the class are nearest to; of equals the
    first. A class all of whose images lie beyond keeps none.

    Args:
        embedding: (N, D), not normalised.
        label: (N,) int64 in [0, num_classes).
        centre: (num_classes, K, D), not normalised.
        degrees: in (0, 180).
    """
    num_classes, num_centres, _ = centre.shape
    cosine = torch.cat(
        [
            label_cosines(F.normalize(part), centre, of_part)
            for part, of_part in zip(
                torch.split(embedding, _BLOCK), torch.split(label, _BLOCK), strict=True
            )
        ]
    )  # (N, K)
    place = label * num_centres + cosine.argmax(1)
    votes = torch.bincount(place, minlength=num_classes * num_centres)
    dominant = votes.view(num_classes, num_centres).argmax(1)
    to_dominant = cosine.gather(1, dominant[label][:, None])[:, 0]
    kept = to_dominant >= math.cos(math.radians(degrees))
    return SubCentreCleaning(kept, to_dominant, dominant)


def label_cosines(unit_embedding: Tensor, centre: Tensor, label: Tensor) -> Tensor:
    """(B, K) cosine to each sub-centre of the label.

    Args:
        unit_embedding: (B, D).
        centre: (C, K, D), not normalised.
        label: (B,) rows of `centre`.
    """
    return torch.einsum("bd,bkd->bk", unit_embedding, F.normalize(centre[label], dim=2))


class Votes(nn.Module):
    """Which sub-centre is dominant while it is being trained: a running vote of the images seen.

    Args:
        num_classes: C of the rank's shard.
        num_centres: K.
    """

    count: Tensor

    def __init__(self, num_classes: int, num_centres: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(num_classes, num_centres))

    def dominant_cosine(
        self, unit_embedding: Tensor, centre: Tensor, row: Tensor, *, learn: bool
    ) -> Tensor:
        """(G,) cosine to the dominant sub-centre of each label, 0 where it is not in this shard.

        Args:
            unit_embedding: (G, D).
            centre: (C, K, D) of this shard.
            row: (G,) of each label in this shard, -1 where it is elsewhere.
            learn: let these images vote first.
        """
        if len(centre) == 0:
            return unit_embedding.new_zeros(len(row))
        here = row >= 0
        place = row.clamp_min(0)
        cosine = label_cosines(unit_embedding, centre, place)  # (G, K)
        if learn:
            vote = F.one_hot(cosine.argmax(1), cosine.shape[1]).to(self.count.dtype)
            new = torch.zeros_like(self.count).index_add_(0, place, vote * here[:, None])
            self.count.mul_(_MEMORY ** new.sum(1, keepdim=True)).add_(new)
        dominant = self.count[place].argmax(1, keepdim=True)
        return torch.where(here, cosine.gather(1, dominant)[:, 0], 0.0)
