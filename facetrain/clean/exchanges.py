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


def exchanged(found: Posterior, verified: Tensor | None, seed: int) -> Tensor:
    """Pairs (2, E) of images i of class A and j of class B that belong to each other's class.

    The gain log p(i | B less j) p(j | A less i) - log p(i | A less i) p(j | B less j), where each
    has the other's class as a candidate, neither fits its own, and each would fit there. In a class
    of two neither image has a majority, so both count in full, whichever the posterior has taken
    for the owner; either pair may be the one that moved: the one that comes later is taken. An
    image moves once, and a class of two exchanges once.

    Args:
        verified: (num_images,) bool, images that never move.
        seed: of planted exchanges, which show how large a gain is.
    """
    labelled = found.labelled
    place, device = labelled.place_of_row, labelled.embedded.device
    in_two = labelled.size_of_row() == 2
    probability = found.probability.clone()
    probability[in_two, 0] = 1
    counts = found.counts.masked_fill(in_two, 1.0)
    found = found._replace(probability=probability, counts=counts)
    members = found.members_by_label(place)
    likely = (place >= 0) & (in_two | (found.own_ratio < 0))
    if verified is not None:
        likely &= ~verified
    first, second = _mutual(found.place, torch.nonzero(likely)[:, 0], labelled.classes.num_classes)
    own, there = _crosswise(found, members, first, second)
    fits = (own.amax(0) < 0) & (there.amin(0) > 0)
    gain = (there - own).sum(0).where(fits, -torch.inf)
    sizes = labelled.size_of_row()[torch.cat([first, second])]
    usual = sizes.median() if len(first) else labelled.size.amax()
    planted = _planted_gains(found, members, usual, seed)
    keep = torch.nonzero(gain > planted.quantile(_LOW))[:, 0] if len(planted) else first[:0]
    # Equal gains to rounding: the later pair first.
    later = keep[(first[keep] + second[keep]).argsort(descending=True, stable=True)]
    later = later[(gain[later] * 10).round().argsort(descending=True, stable=True)]
    # Once a class of two has exchanged an image, both of its images are explained.
    whole = (len(place) + place).where(in_two, torch.arange(len(place), device=device))
    moved: set[int] = set()
    classes: set[tuple[int, int]] = set()
    chosen = []
    for one in later.tolist():
        pair = int(whole[first[one]]), int(whole[second[one]])
        between = int(place[first[one]]), int(place[second[one]])
        if moved.isdisjoint(pair) and between not in classes:
            chosen.append(one)
            moved.update(pair)
            classes.update((between, between[::-1]))
    pick = torch.tensor(chosen, dtype=torch.int64, device=device)
    return torch.stack([first[pick], second[pick]])


def _mutual(place: Tensor, row: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Pairs (P,), (P,) of these images (n,) of which each has the other's class as a candidate."""
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
    first, second = image[number], image[start[number] + step]
    return first[first < second], second[first < second]


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
    first, second = row[torch.randint(len(row), (2, _PLANTED), generator=generator).to(row.device)]
    apart = place[first] != place[second]
    home, away = _crosswise(found, members, first[apart], second[apart])
    return (home - away).sum(0)


def _crosswise(
    found: Posterior, members: Members, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """LLR of images (P,), (P,) to their own classes, (2, P), and to each other's, both away."""
    own, there = [found.counts.new_zeros(2, 0)], [found.counts.new_zeros(2, 0)]
    for pair in torch.split(torch.stack([first, second]), _AT_ONCE, dim=1):  # (2, n)
        z = found.z(pair)
        others = members.without(found.labelled.place_of_row[pair], found.counts[pair], z)
        own.append(found.model.log_ratio(z, *others))
        there.append(found.model.log_ratio(z, *(one.flip(0) for one in others)))
    return torch.cat(own, 1), torch.cat(there, 1)
