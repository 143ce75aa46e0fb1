"""Classes that no evidence can decide."""

from typing import NamedTuple

import torch
from torch import Tensor

from facetrain.clean.kept_centres import KeptCentres, kept_centres
from facetrain.clean.labelled_set import LabelledSet, Piece
from facetrain.clean.relational import SAME_PERSON
from facetrain.clean.suggestions import home
from facetrain.graph.class_graphs import components

_TIE = 0.05
_JOINS = 0.4
_PAIR = 0.7
_NODES_AT_ONCE = 1 << 14


class Undecided(NamedTuple):
    """Classes that nothing decides."""

    classes: Tensor  # (C,) bool
    claimants: Tensor  # (num_images,) bool: the images that claim one of them with equal right


def undecided(labelled: LabelledSet, clean_probability: Tensor, kept: Tensor) -> Undecided:
    """The classes of which nothing tells whose they are, and who claims them.

    A class of one image; of two that are unlike; and one whose two largest groups differ by no
    more than _TIE of the class, unless half of the images of one of them, and only of one, have a
    home in another class. Their images without such a home are the claimants; others in the class
    are noise whoever the owner is, or not, and where nobody is like anybody nobody has a claim.
    Groups are what links of SAME_PERSON connect, of _PAIR where only two are linked; images in
    neither of the two largest join the one they are more like, from a mean level of _JOINS on, if
    it has a link. No guess is made between claimants: that is for a person to see. A pass over the
    classes, n * K for n images.

    LFW, noise of `data.noise.plant` on identities of 5 or more images (20 and 40 % flips, 30 %
    structured, 20 % outliers, a mixture), the cleaner's answers, both embeddings: of the 80 to 129
    classes of 5 or more images with a strict majority none is flagged in any run, of 555 of two
    clean images 17 to 23. Planted ties, half of one person and as many of another, 55 classes: 50
    (MobileFaceNet) and 47 (dlib) flagged; where one of the two also has a class of their own, so
    that the tie is resolved, 1 and 1.

    Args:
        labelled: C classes.
        clean_probability: (num_images,) belief in each label.
        kept: (num_images,) bool; the images that make up the other classes.
    """
    centres, weight = kept_centres(labelled, kept), clean_probability * kept
    flags, claimants = [], torch.zeros_like(kept)
    for classes in labelled.cut(_NODES_AT_ONCE):
        piece = labelled.piece(classes)
        flag, claims = _undecided(piece, centres, weight)
        flags.append(flag)
        claimants[piece.graphs.row] = claims
    return Undecided(torch.cat(flags), claimants)


def _undecided(piece: Piece, centres: KeptCentres, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same for one piece: its classes (C,) and nodes (N,)."""
    owner, graphs = piece.owner, piece.graphs
    group = _two_groups(piece)  # (N,)
    at_home = home(owner, centres, graphs.row, weight, own_speaks=False) >= 0
    size, leaving = [], []
    for number in (0, 1):
        size.append(graphs.sum((group == number).long()))
        leaves = graphs.sum(((group == number) & at_home).long())
        leaving.append((2 * leaves >= size[-1]) & (leaves > 0))
    tied = (size[0] - size[1]).abs() <= _TIE * graphs.size
    resolved = (leaving[0] != leaving[1]) & (graphs.size > 2)
    alone = graphs.size == 1
    flag = (tied & ~resolved) | alone
    groups = (size[0] > 1) | (graphs.size <= 2)
    claims = (group >= 0) & (~at_home | alone[graphs.label])
    return flag, (flag & groups)[graphs.label] & claims


def _sizes(name: Tensor) -> Tensor:
    """How many nodes have each name, (N,)."""
    return torch.zeros_like(name).index_add_(0, name, torch.ones_like(name))


def _two_groups(piece: Piece) -> Tensor:
    """0 and 1 for the nodes of a class's two largest groups, -1 for the rest, (N,)."""
    graphs, scale = piece.graphs, piece.owner.scale
    level = scale(piece.similarity).where(piece.neighbour >= 0, -torch.inf)  # (N, K)
    name = components(piece.neighbour, level >= SAME_PERSON)
    # Among six strangers there are fifteen pairs: a group of two takes more than a link.
    alone = (_sizes(name)[name] == 2) & (level.amax(1) < _PAIR)
    name = torch.arange(len(name), device=name.device).where(alone, name)
    size = _sizes(name)
    root = torch.nonzero(size)[:, 0]
    root = root[size[root].argsort(descending=True, stable=True)]
    root = root[graphs.label[root].argsort(stable=True)]  # by class, the largest first
    count = torch.zeros_like(graphs.class_id).index_add_(0, graphs.label[root], root * 0 + 1)
    first = count.cumsum(0) - count
    group = torch.full_like(name, -1)
    group[name == root[first][graphs.label]] = 0
    second = root[(first + 1).clamp(max=len(root) - 1)].where(count > 1, -1)
    group[name == second[graphs.label]] = 1
    alike = []
    for number in (0, 1):
        inside = (group == number)[:, None]
        mean = graphs.sum(piece.unit_embedding * inside) / graphs.sum(inside.long()).clamp(min=1)
        to_group = scale((piece.unit_embedding * mean[graphs.label]).sum(1))  # (N,)
        # A single image is no group: who is a little like it has not joined anybody.
        linked = graphs.sum(inside[:, 0].long()) > 1
        alike.append(to_group.where(linked[graphs.label], -torch.inf))
    most_alike, nearer = torch.stack(alike, 1).max(1)
    return group.where((group >= 0) | (most_alike < _JOINS), nearer)
