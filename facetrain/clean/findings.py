"""What the same likelihood says of whole classes, and of images that changed places.

Each finding is a hypothesis with a log evidence ratio against "as labelled". What such a ratio is
worth is learned from hypotheses that are known to be true, planted into the set itself, against
those that the set suggests, few of which are.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.links import linked_groups
from facetrain.clean.posterior import Calibration, Members, Posterior
from facetrain.core.rng import torch_generator

_AT_ONCE = 1 << 12
_STEPS = 12
_NATS = 10.0
_LOW = 0.01
"""Quantile of the planted hypotheses' evidence from which another counts as one of them."""
_PLANTED = 4096
_SURE = 0.8
"""Probability from which a finding is named: for people to look at, so rather right than many."""
_SHORTLIST = 4
_MOST_EXCHANGES = 1 << 22


def believable(log_ratio: Tensor, planted: Tensor) -> Tensor:
    """Probability of each hypothesis (K,), from its log evidence ratio.

    Logistic regression of planted hypotheses against the set's own, these weighed by how probable
    they are false, and the planted ones by how many are true: EM for learning from positive and
    unlabelled examples (Elkan and Noto, KDD 2008), which finds the share of true ones as well.

    Args:
        log_ratio: (K,) of the hypotheses that the set suggests.
        planted: (P,) of planted ones, which are true.
    """
    if len(log_ratio) == 0 or len(planted) == 0:
        return torch.zeros_like(log_ratio)
    known, asked = (one.cpu().numpy()[:, None] / _NATS for one in (planted, log_ratio))
    ratio = np.concatenate([known, asked])
    truth = np.arange(len(ratio)) < len(known)
    # Begun at those that look like the planted ones; from none the share would stay at none.
    chance = (asked[:, 0] > np.quantile(known, _LOW)).astype(float)
    for _ in range(_STEPS):
        share = max(float(chance.mean()), 1 / len(asked))
        planted_weight = np.full(len(known), share * len(asked) / len(known))
        weight = np.concatenate([planted_weight, 1 - chance])
        fitted = LogisticRegression(C=1e4).fit(ratio, truth, sample_weight=weight)
        if fitted.coef_[0, 0] <= 0:  # more evidence means nothing here: nothing to be found
            return torch.zeros_like(log_ratio)
        chance = fitted.predict_proba(asked)[:, 1]
    return torch.from_numpy(chance).float().to(log_ratio.device)


def own_members(
    labelled: LabelledSet, model: IdentityModel, found: Posterior, place: Tensor
) -> Members:
    """What the images under each label say of its identity, the most likely ones in full.

    Unlike the posterior's members, which an image leaves for where it seems to belong: whether two
    labels are one person is asked of those who carry them.

    Args:
        place: (num_images,) the class that each image counts for, -1 for none.
    """
    device = labelled.embedded.device
    model = model.to(device)
    present = torch.nonzero(place >= 0)[:, 0]
    num_classes = labelled.classes.num_classes
    own = found.probability[:, 0]
    best = own.new_zeros(num_classes).scatter_reduce(0, place[present], own[present], "amax")
    members = Members(
        torch.zeros(num_classes, device=device),
        torch.zeros(num_classes, len(model.between), device=device),
    )
    for row in torch.split(present, _AT_ONCE):
        belief = own[row] / best[place[row]].clamp(min=1e-6)
        z = labelled.embedded.rows(row) @ model.basis
        members.precision.index_add_(0, place[row], belief * found.counts[row])
        members.total.index_add_(0, place[row], (belief * found.counts[row])[:, None] * z)
    return members


class Merges(NamedTuple):
    """Labels that are one person."""

    into: Tensor  # (C,) place of the class that each should take, -1 where it stays
    person: Tensor  # (C,) the largest class of its person, perhaps itself


def double_names(
    labelled: LabelledSet, model: IdentityModel, found: Posterior, members: Members, seed: int = 0
) -> Merges:
    """Classes of one person: log m(t_a + t_b, n_a + n_b) - log m(t_a, n_a) - log m(t_b, n_b).

    Asked of every class and the classes of its images' neighbours. What is joined goes into the
    largest class of its group, the first among equals. Planted: classes divided at random.
    """
    model, num_classes = model.to(members.total.device), labelled.classes.num_classes
    first, second = _neighbouring_classes(found.place, num_classes)
    alone = model.log_evidence(*members)
    ratio = [
        model.log_evidence(
            members.precision[a] + members.precision[b], members.total[a] + members.total[b]
        )
        - alone[a]
        - alone[b]
        for a, b in zip(torch.split(first, _AT_ONCE), torch.split(second, _AT_ONCE), strict=True)
    ]
    chance = believable(
        torch.cat([*ratio, alone[:0]]), _divided(labelled, model, found, members, seed)
    )
    joined = chance > _SURE
    group = linked_groups(num_classes, first[joined], second[joined])
    size = labelled.classes.size.to(group.device)
    order = size.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]  # by group, the largest class first
    leads = torch.ones_like(order, dtype=torch.bool)
    leads[1:] = group[order[1:]] != group[order[:-1]]
    person = torch.empty_like(group)
    person[group[order[leads]]] = order[leads]
    person = person[group]
    itself = torch.arange(num_classes, device=person.device)
    return Merges(person.where(person != itself, -1), person)


def _divided(
    labelled: LabelledSet, model: IdentityModel, found: Posterior, members: Members, seed: int
) -> Tensor:
    """The same ratio of classes with themselves, divided at random, (P,)."""
    size = labelled.classes.size
    generator = torch_generator(seed, "divided")
    several = torch.nonzero(size > 1)[:, 0]
    chosen = several[torch.randperm(len(several), generator=generator)[:_PLANTED]]
    graphs = labelled.classes.subset(chosen)
    cut = torch.rand(len(chosen), generator=generator)
    cut = (1 + (cut * (graphs.size - 1)).long()).clamp(max=graphs.size - 1)  # images in one part
    rank = torch.rand(graphs.num_nodes, generator=generator)
    order = rank.argsort()
    order = order[graphs.label[order].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - graphs.start[:-1][graphs.label[order]]
    part = graphs.label * 2 + (place >= cut[graphs.label])
    device = members.total.device
    precision = torch.zeros(2 * len(chosen), device=device)
    total = torch.zeros(2 * len(chosen), len(model.between), device=device)
    for node in torch.split(torch.arange(graphs.num_nodes), _AT_ONCE):
        row, half = graphs.row[node].to(device), part[node].to(device)
        belief = found.probability[row, 0]
        z = labelled.embedded.rows(row) @ model.basis
        precision.index_add_(0, half, belief * found.counts[row])
        total.index_add_(0, half, (belief * found.counts[row])[:, None] * z)
    alone = model.log_evidence(precision, total).reshape(-1, 2).sum(1)
    whole = model.log_evidence(
        precision.reshape(-1, 2).sum(1), total.reshape(len(chosen), 2, total.shape[1]).sum(1)
    )
    return (whole - alone)[precision.reshape(-1, 2).amin(1) > 0.5]


def _neighbouring_classes(place: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Pairs (P,), (P,) of classes of which an image of one has the other as a candidate."""
    keys = []
    for part in torch.split(place, 1 << 18):
        own, other = part[:, :1].expand(-1, part.shape[1] - 1), part[:, 1:]
        real = (own >= 0) & (other >= 0)
        low, high = torch.minimum(own, other)[real], torch.maximum(own, other)[real]
        keys.append(torch.unique(low * num_classes + high))
    key = torch.unique(torch.cat(keys))
    return key // num_classes, key % num_classes


class Exchanges(NamedTuple):
    """Pairs of images (E,) under each other's label."""

    first: Tensor
    second: Tensor


def exchanged(
    labelled: LabelledSet,
    model: IdentityModel,
    found: Posterior,
    confirmed: Tensor | None = None,
    seed: int = 0,
) -> Exchanges:
    """Images i of class A and j of class B that belong to each other's class.

    log p(i | B less j) p(j | A less i) - log p(i | A less i) p(j | B less j), asked where each has
    the other's class as a candidate, neither fits its own, and each would fit there. In a class of
    two neither image has a majority, so both speak for it in full, whichever the posterior has
    taken for the owner; either pair may be the one that moved: the one that comes later is taken.
    An image moves once, and a class of two exchanges once. Planted: what two believed images of
    different classes would gain by going back, had they been exchanged. Confirmed images
    (num_images,) bool never move.
    """
    place, device = labelled.place_of_row, labelled.embedded.device
    model, num_classes = model.to(device), labelled.classes.num_classes
    found = _evenly(labelled, found)
    members = own_members(labelled, model, found, place)
    astray = _astray(labelled, model, found, members)
    row = torch.nonzero(astray if confirmed is None else astray & ~confirmed)[:, 0]
    at, slot = torch.nonzero(found.place[row, 1:] >= 0, as_tuple=True)
    image, own = row[at], found.place[row[at], 0]
    other = found.place[image, slot + 1]
    key, order = (own * num_classes + other).sort(stable=True)
    image = image[order]
    back = key % num_classes * num_classes + key // num_classes
    start = torch.searchsorted(key, back)
    count = torch.searchsorted(key, back, right=True) - start
    if int(count.sum()) > _MOST_EXCHANGES:  # a set without any structure: nothing to be named
        count = torch.zeros_like(count)
    number = torch.repeat_interleave(torch.arange(len(image), device=device), count)
    step = torch.arange(len(number), device=device) - (count.cumsum(0) - count)[number]
    first, second = image[number], image[start[number] + step]
    first, second = first[first < second], second[first < second]
    ratios = []
    for i, j in zip(torch.split(first, _AT_ONCE), torch.split(second, _AT_ONCE), strict=True):
        stay, there = _crosswise(labelled, model, found, members, i, j)
        ratios.append((there - stay).sum(0).where(there.amin(0) > 0, -torch.inf))
    evidence = torch.cat([*ratios, torch.zeros(0, device=device)])
    size = labelled.classes.size.to(device)
    usual = size[place[torch.cat([first, second])]].median() if len(first) else size.amax()
    planted = _sent_away(labelled, model, found, members, usual, seed)
    keep = torch.nonzero(evidence > planted.quantile(_LOW))[:, 0] if len(planted) else first[:0]
    # Equal evidence to rounding: the later pair first.
    later = keep[(first[keep] + second[keep]).argsort(descending=True, stable=True)]
    later = later[(evidence[later] * 10).round().argsort(descending=True, stable=True)]
    # Once a class of two has exchanged an image, both of its images are explained.
    itself = torch.arange(len(place), device=device)
    whole = (len(place) + place).where(_of_two(labelled), itself)
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
    return Exchanges(first[pick], second[pick])


def _of_two(labelled: LabelledSet) -> Tensor:
    """(num_images,) bool, images in a class of two."""
    place = labelled.place_of_row
    return (labelled.classes.size.to(place.device)[place.clamp(min=0)] == 2) & (place >= 0)


def _evenly(labelled: LabelledSet, found: Posterior) -> Posterior:
    """The same with both images of a class of two in full: neither has a majority."""
    pair = _of_two(labelled)
    probability = found.probability.clone()
    probability[pair, 0] = 1
    return found._replace(
        probability=probability,
        counts=found.counts.masked_fill(pair, 1.0),
    )


def _astray(
    labelled: LabelledSet, model: IdentityModel, found: Posterior, members: Members
) -> Tensor:
    """(num_images,) bool, images that look less like the others of their class than like anybody.

    In a class of two, like the other image: the posterior has settled whose the class is.
    """
    place = labelled.place_of_row
    ratio = found.own_ratio.clone()
    for row in torch.split(torch.nonzero(_of_two(labelled))[:, 0], _AT_ONCE):
        z = labelled.embedded.rows(row) @ model.basis
        precision = (members.precision[place[row]] - found.counts[row]).clamp(min=0)
        total = members.total[place[row]] - found.counts[row, None] * z
        company = model.log_likelihood(z, precision, total).logsumexp(-1)
        anybody = model.log_likelihood(z, 0 * precision, 0 * z).logsumexp(-1)
        ratio[row] = company - anybody
    return (place >= 0) & (ratio < 0)


def _sent_away(
    labelled: LabelledSet,
    model: IdentityModel,
    found: Posterior,
    members: Members,
    largest: Tensor,
    seed: int,
) -> Tensor:
    """The ratio of going home, (P,): exchanging two images back is the negative of exchanging.

    Of classes up to the size `largest` that those in question have, since the ratio grows with it.
    """
    place = labelled.place_of_row
    company = members.precision[place.clamp(min=0)] - found.counts
    believed = (found.probability[:, 0] > 0.5) & (company > 0.5) & (place >= 0)
    believed &= labelled.classes.size.to(place.device)[place.clamp(min=0)] <= largest
    row = torch.nonzero(believed)[:, 0]
    if len(row) == 0:
        return found.counts[:0]
    generator = torch_generator(seed, "exchanged")
    pick = torch.randint(len(row), (2, _PLANTED), generator=generator).to(row.device)
    first, second = row[pick]
    apart = place[first] != place[second]
    ratios = [found.counts[:0]]
    for i, j in zip(
        torch.split(first[apart], _AT_ONCE), torch.split(second[apart], _AT_ONCE), strict=True
    ):
        home, away = _crosswise(labelled, model, found, members, i, j)
        ratios.append((home - away).sum(0))
    return torch.cat(ratios)


def _crosswise(
    labelled: LabelledSet,
    model: IdentityModel,
    found: Posterior,
    members: Members,
    first: Tensor,
    second: Tensor,
) -> tuple[Tensor, Tensor]:
    """LLR of two images (n,) to their own classes, (2, n), and to each other's, both away."""
    place = labelled.place_of_row
    row = torch.stack([first, second])  # (2, n)
    z = torch.stack([labelled.embedded.rows(one) @ model.basis for one in row])
    counts = found.counts[row]
    precision = (members.precision[place[row]] - counts).clamp(min=0)
    total = members.total[place[row]] - counts[..., None] * z
    anybody = model.log_likelihood(z, 0 * precision, 0 * z).logsumexp(-1)
    own = model.log_likelihood(z, precision, total).logsumexp(-1) - anybody
    there = model.log_likelihood(z, precision.flip(0), total.flip(0)).logsumexp(-1) - anybody
    return own, there


def in_evaluation_set(
    labelled: LabelledSet,
    model: IdentityModel,
    calibration: Calibration,
    members: Members,
    merges: Merges,
    embedding: NDArray[np.floating],
) -> Tensor:
    """Which classes (C,) are of a person in an evaluation set, merged ones together.

    An evaluation image is of one of the classes whose centres are nearest, or of nobody; a class is
    flagged where an image is more likely its person's than not.

    Args:
        embedding: (M, D) of the evaluation images, by the same backbone.
    """
    device = members.total.device
    model, num_classes = model.to(device), labelled.classes.num_classes
    shrink = model.between / (1 + model.between * members.precision[:, None])
    centre = torch.nn.functional.normalize(shrink * members.total)  # (C, D)
    at_once = max(1, (1 << 24) // num_classes)
    ratios, places = [], []
    for start in range(0, len(embedding), at_once):
        z = labelled.embedded.centred(embedding[start : start + at_once]) @ model.basis
        near = (z @ centre.mT).topk(min(_SHORTLIST, num_classes), dim=1).indices  # (m, S)
        fits = model.log_likelihood(z[:, None], members.precision[near], members.total[near])
        nothing = torch.zeros(len(z), device=device)
        anybody = model.log_likelihood(z, nothing, torch.zeros_like(z)).logsumexp(-1)
        ratios.append(fits.logsumexp(-1) - anybody[:, None])
        places.append(near)
    ratio, place = torch.cat(ratios), torch.cat(places)
    evidence = calibration.temperature * ratio
    person = merges.person[place]  # (M, S)
    same = person[:, :, None] == person[:, None, :]
    total = evidence[:, None, :].masked_fill(~same, -torch.inf).logsumexp(2)  # of the person
    rival = evidence[:, None, :].masked_fill(same, -torch.inf).logsumexp(2)
    best = total.argmax(1, keepdim=True)
    versus = torch.logaddexp(rival, torch.full_like(rival, float(np.log(num_classes))))
    chance = torch.sigmoid((total - versus).gather(1, best)[:, 0])
    flagged = torch.zeros(num_classes, dtype=torch.bool, device=device)
    flagged[person.gather(1, best)[:, 0][chance > 0.5]] = True
    return flagged[merges.person]
