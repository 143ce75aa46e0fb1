"""Images that changed places: two under each other's label."""

import torch
from torch import Tensor

from facetrain.clean.posterior import Members, Posterior
from facetrain.core.rng import torch_generator

_AT_ONCE = 1 << 12
_LOW = 0.01
"""Quantile of planted exchanges' gain from which another counts as one."""
_PLANTED = 4096
_MOST = 1 << 22


def exchanged(found: Posterior, seed: int) -> Tensor:
    """Pairs (2, E) of images i of class A and j of class B that belong to each other's class.

    The gain log p(i | B less j) p(j | A less i) - log p(i | A less i) p(j | B less j), where each
    has the other's class as a candidate, neither fits its own, and each would fit there. In a class
    of two neither image has a majority, so both count in full, whichever the posterior has taken
    for the owner; either pair may be the one that moved: the one that comes later is taken. An
    image moves once, and a class of two exchanges once.

    Args:
        seed: of planted exchanges, which show how large a gain is.
    """
    labelled = found.labelled
    place, in_two = labelled.place_of_row, labelled.size_of_row() == 2
    probability = found.probability.clone()
    probability[in_two, 0] = 1
    counts = found.counts.masked_fill(in_two, 1.0)
    found = found._replace(probability=probability, counts=counts)
    members = found.members_by_label(place)
    likely = (place >= 0) & (in_two | (found.own_ratio < 0)) & ~labelled.verified
    pairs = _mutual(found.place, torch.nonzero(likely)[:, 0], labelled.classes.num_classes)
    if pairs.numel() == 0:
        return pairs
    own, there = _crosswise(found, members, pairs)
    fits = (own.amax(0) < 0) & (there.amin(0) > 0)
    usual = labelled.size_of_row()[pairs].median()
    planted = _planted_gains(found, members, usual, seed)
    enough = planted.quantile(_LOW) if len(planted) else torch.inf
    gain = (there - own).sum(0)
    keep = torch.nonzero(fits & (gain > enough))[:, 0]
    # Equal gains to rounding: the later pair first.
    later = keep[pairs[:, keep].sum(0).argsort(descending=True, stable=True)]
    later = later[(gain[later] * 10).round().argsort(descending=True, stable=True)]
    # Once a class of two has exchanged an image, both of its images are explained.
    image = (len(place) + place[pairs]).where(in_two[pairs], pairs)
    taken: set[int | frozenset[int]] = set()
    chosen = []
    for one in later.tolist():
        claim = {*image[:, one].tolist(), frozenset(place[pairs[:, one]].tolist())}
        if taken.isdisjoint(claim):
            chosen.append(one)
            taken |= claim
    return pairs[:, chosen]


def _mutual(place: Tensor, row: Tensor, num_classes: int) -> Tensor:
    """Pairs (2, P) of these images (n,) of which each has the other's class as a candidate."""
    at, slot = torch.nonzero(place[row, 1:] >= 0, as_tuple=True)
    image = row[at]
    key, order = (place[image, 0] * num_classes + place[image, slot + 1]).sort(stable=True)
    image = image[order]
    back = key % num_classes * num_classes + key // num_classes
    start = torch.searchsorted(key, back)
    count = torch.searchsorted(key, back, right=True) - start
    if int(count.sum()) > _MOST:  # a set without any structure: nothing to be named
        count = torch.zeros_like(count)
    number = torch.repeat_interleave(torch.arange(len(image), device=row.device), count)
    step = torch.arange(len(number), device=row.device) - (count.cumsum(0) - count)[number]
    pairs = torch.stack([image[number], image[start[number] + step]])
    return pairs[:, pairs[0] < pairs[1]]


def _planted_gains(found: Posterior, members: Members, largest: Tensor, seed: int) -> Tensor:
    """What images that are clean would gain by going back, had they been exchanged, (P,).

    In classes up to the size `largest` that those in question have, since the gain grows with it.
    """
    place = found.labelled.place_of_row
    company = members.precision[place.clamp(min=0)] - found.counts
    clean = (found.probability[:, 0] > 0.5) & (company > 0.5) & (place >= 0)
    row = torch.nonzero(clean & (found.labelled.size_of_row() <= largest))[:, 0]
    if len(row) == 0:
        return found.counts[:0]
    generator = torch_generator(seed, "exchanged")
    pairs = row[torch.randint(len(row), (2, _PLANTED), generator=generator).to(row.device)]
    home, away = _crosswise(found, members, pairs[:, place[pairs[0]] != place[pairs[1]]])
    return (home - away).sum(0)


def _crosswise(found: Posterior, members: Members, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """LLR of images (2, P) to their own classes, (2, P), and to each other's, both away."""
    own, there = [], []
    for pair in torch.split(pairs, _AT_ONCE, dim=1):  # (2, n)
        z = found.z(pair)
        others = members.without(found.labelled.place_of_row[pair], found.counts[pair], z)
        own.append(found.model.log_ratio(z, *others))
        there.append(found.model.log_ratio(z, *(one.flip(0) for one in others)))
    return torch.cat(own, 1), torch.cat(there, 1)
