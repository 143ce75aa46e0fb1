"""Two classes that are one person."""

from typing import NamedTuple

import torch
from torch import Tensor

from facetrain.clean.kept_centres import kept_centres
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.links import linked_groups
from facetrain.clean.relational import SAME_PERSON

_LEAST_IMAGES = 2
_LEAST_LEVEL = 0.6
_SLACK = 0.1
_LEAST_SHARE = 0.5
_ROWS_AT_ONCE = 1 << 14


class _Pairs(NamedTuple):
    """Pairs of classes with a link: two kept neighbours that look like one person."""

    classes: Tensor  # (P, 2) places
    level: Tensor  # (P,) mean cosine over all pairs of their images, on `Scale`
    usual: Tensor  # (P,) the same inside the two classes, mean of both
    share: Tensor  # (P,) how much of the smaller class links reach, and of the larger likewise


def split_identities(labelled: LabelledSet, kept: Tensor) -> Tensor:
    """The class each class should be merged into, (C,): its label; -1 for none.

    Two classes are taken for one person when links join them, their images are as alike across as
    within (to _SLACK, and _LEAST_LEVEL at least), and links reach _LEAST_SHARE of the smaller class
    and as many images of the larger: one stray image linked to everybody is no evidence. A level
    alone does not do: at 0.6, dlib's lets through 1,158 wrong pairs beside 108 right ones; but
    hardly a stranger is as alike as oneself. Classes with fewer than _LEAST_IMAGES kept images are
    left alone. What is joined goes into the largest class of its group, the first among equals.
    One pass over the graph and one over the embeddings.

    LFW, 4,038 identities, the 111 with 10 or more images cut in two, 20 to 80 %; precision / recall
    of the pairs with MobileFaceNet, then dlib: cut at random 0.991 / 0.964 and 0.982 / 0.973; by
    file number 0.991 / 0.973 and 0.973 / 0.973; with 20 % flips, the noise not kept, 0.991 / 0.946
    and 0.982 / 0.964; with a twentieth of that noise kept 0.991 / 0.955 and 0.982 / 0.973; with
    30 % structured noise 0.990 / 0.901 and 0.980 / 0.901. One pair, wrong by LFW's labels, is found
    throughout: Joseph Blatter and Sepp Blatter, who are one.

    Args:
        labelled: C classes.
        kept: (num_images,) bool.
    """
    classes = labelled.classes.to(labelled.embedded.device)
    size = classes.sum(kept[classes.row].long())
    found = _pairs(labelled, kept)
    alike = found.level >= (found.usual - _SLACK).clamp(min=_LEAST_LEVEL)
    enough = size[found.classes].amin(1) >= _LEAST_IMAGES
    first, second = found.classes[alike & enough & (found.share >= _LEAST_SHARE)].T
    group = linked_groups(classes.num_classes, first, second)
    # By group, the largest class first.
    order = size.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    leads = torch.ones_like(order, dtype=torch.bool)
    leads[1:] = group[order[1:]] != group[order[:-1]]
    root = torch.empty_like(group)
    root[group[order[leads]]] = order[leads]
    root = root[group]
    itself = torch.arange(len(root), device=root.device)
    return classes.class_id[root].where(root != itself, -1)


def _pairs(labelled: LabelledSet, kept: Tensor) -> _Pairs:
    """All linked pairs of classes."""
    classes = labelled.classes.to(labelled.embedded.device)
    num_classes = classes.num_classes
    place = torch.full_like(labelled.label_of_row, -1)
    place[classes.row] = classes.label
    place = place.where(kept, -1)  # class of each kept image
    ends = [place.new_zeros(0)]
    for row in torch.split(torch.nonzero(place >= 0)[:, 0], _ROWS_AT_ONCE):
        cosine, neighbour = labelled.embedded.context(row)
        other = place[neighbour].where(neighbour >= 0, -1)
        linked = (other >= 0) & (other != place[row][:, None])
        linked &= labelled.scale(cosine) >= SAME_PERSON
        at, slot = linked.nonzero(as_tuple=True)
        first, second = row[at], neighbour[at, slot]
        both = [first * num_classes + place[second], second * num_classes + place[first]]
        ends.append(torch.unique(torch.cat(both)))
    reached = torch.unique(torch.cat(ends))  # an image and the other class, once
    own, other = place[reached // num_classes], reached % num_classes
    key, images = torch.unique(own * num_classes + other, return_counts=True)
    own, other = key // num_classes, key % num_classes
    back = images[torch.searchsorted(key, other * num_classes + own)]
    pair = torch.stack([own, other], 1)[own < other]
    least = torch.minimum(images, back)[own < other]
    mean, num_kept, within = kept_centres(labelled, kept)
    across = [(mean[p[:, 0]] * mean[p[:, 1]]).sum(1) for p in torch.split(pair, _ROWS_AT_ONCE)]
    usual = labelled.scale(within)[pair].mean(1)
    level = labelled.scale(torch.cat(across))
    return _Pairs(pair, level, usual, least / num_kept[pair].amin(1))
