"""What the cleaner sees of an image: how it lies to its class and to the classes around it.

Nothing here depends on where in space an identity lies, so that what is learned on some
identities, or on one embedding, holds on others.
"""

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from facetrain.graph.class_graphs import ClassGraphs, Neighbourhood

_NEAREST = (1, 3, 5, 20)
_QUANTILES = (0.9, 0.75, 0.5, 0.25, 0.1)
_LEVELS = (0.3, 0.6, 0.9)
_SOFTNESS = 0.08
_HIGH_STRANGER = 0.3
_LEAST_GAP = 0.05
_PAIRS, _PARTNERS = 4096, 8
_SAME_PERSON = 0.55
_SUMMARISED = [0, 2, 7, 11]
_NEAREST_SHARE = (1, 3, 5, 10)
_EPS = 1e-6

NUM_FEATURES = 2 * (1 + len(_NEAREST) + len(_QUANTILES) + len(_LEVELS)) + 10 + 7 + 4 + 1


@dataclasses.dataclass(frozen=True)
class Scale:
    """What cosines mean under one embedding, from three of its levels, linear between them.

    0 is the median of strangers' cosines, 0.3 their 95th percentile, 1 a good cosine of one
    person. Embeddings differ in all three: one anchor fewer, and a threshold learned on one of
    them lets through four times as many strangers on the other.
    """

    median_stranger: float
    high_stranger: float
    same: float

    def __call__(self, similarity: Tensor) -> Tensor:
        """Cosines -> the common scale."""
        low = (similarity - self.median_stranger) / (self.high_stranger - self.median_stranger)
        high = (similarity - self.high_stranger) / (self.same - self.high_stranger)
        return torch.where(
            similarity < self.high_stranger,
            low * _HIGH_STRANGER,
            _HIGH_STRANGER + high * (1 - _HIGH_STRANGER),
        )


def measure_scale(
    rows: Callable[[Tensor], Tensor], graphs: ClassGraphs, generator: torch.Generator
) -> Scale:
    """The levels of strangers' cosines and of one person's, from noisy labels.

    Strangers are random pairs with different labels. The same person: an image's upper quartile
    of cosines to its class, upper quartile over images; with up to half the labels wrong this
    still is a pair of the owner's, and it moves little with the noise rate.

    Args:
        rows: places in the data set -> unit embeddings (n, D).
        graphs: all classes.
    """
    first, second = torch.randint(graphs.num_nodes, (2, _PAIRS), generator=generator)
    unit = rows(graphs.row[first])
    pair = (unit * rows(graphs.row[second])).sum(1).cpu()
    pair = pair[graphs.label[first] != graphs.label[second]]
    median, high = (float(pair.quantile(q)) for q in (0.5, 0.95)) if len(pair) else (0.0, 0.0)
    high = max(high, median + _LEAST_GAP)

    label = graphs.label[first]
    size, start = graphs.size[label], graphs.start[label]
    inside = []
    for _ in range(_PARTNERS):
        step = 1 + (torch.rand(_PAIRS, generator=generator) * (size - 1)).long()
        partner = start + (first - start + step) % size
        inside.append((unit * rows(graphs.row[partner])).sum(1).cpu())
    own = torch.stack(inside, 1)[size > 2]
    same = float(own.quantile(0.75, dim=1).quantile(0.75)) if len(own) else 1.0
    return Scale(median, high, max(same, high + _LEAST_GAP))


@dataclasses.dataclass(frozen=True)
class Context:
    """The global kNN graph around some nodes, by label rather than by image."""

    similarity: Tensor  # (N, K) descending
    label: Tensor  # (N, K) class_id of each neighbour, -1 where it counts for nothing
    weight: Tensor  # (N, K) probability of each neighbour's label


def relational_features(
    unit_embedding: Tensor,
    graphs: ClassGraphs,
    whole: Iterable[Neighbourhood],
    weight: Tensor,
    around: Context,
    scale: Scale,
) -> Tensor:
    """What the GCN reads, (N, NUM_FEATURES).

    Of each image: similarity to its class's leave-one-out centre, to its nearest 1, 3, 5, 20
    images of the class, quantiles, the share of the class above three levels; each also relative
    to the class; the class's means, spreads and log size; and from the global graph the support
    that its label and the best other label find among the nearest neighbours. Other images count
    by their probability (sizes and nearest neighbours as they are), so that a second pass sees the
    class without the noise found in the first.

    Args:
        unit_embedding: (N, D) by node.
        whole: each node with its whole class.
        weight: (N,) probability of each node, in [0, 1].
    """
    centre = _centre(unit_embedding, graphs, weight, scale)
    inside = torch.cat([centre[:, None], _inside(whole, weight, scale)], dim=1)
    total = graphs.sum(weight)  # (C,)
    share = (weight / (total[graphs.label] + _EPS))[:, None]
    mean = graphs.sum(share * inside)  # (C, F)
    relative = inside - mean[graphs.label]
    spread = (graphs.sum(share * relative**2) + _EPS).sqrt()
    log_size = torch.stack([graphs.size.log(), (total + 0.1).log()], 1)
    chosen = mean[:, _SUMMARISED], spread[:, _SUMMARISED]
    summary = torch.cat([*chosen, log_size], dim=1)[graphs.label]
    own_logit = torch.logit(weight, eps=2.5e-3)[:, None].where(weight[:, None] < 1, 0.0) / 3
    outside = _outside(graphs.class_id[graphs.label], around, scale)
    return torch.cat([inside, relative, summary, outside, own_logit], dim=1)


def _centre(unit_embedding: Tensor, graphs: ClassGraphs, weight: Tensor, scale: Scale) -> Tensor:
    """Similarity (N,) to the weighted centre of the class's other images."""
    total = graphs.sum(weight[:, None] * unit_embedding)[graphs.label]  # (N, D)
    others = total - weight[:, None] * unit_embedding
    cosine = (others * unit_embedding).sum(1) / others.norm(dim=1).clamp(min=_EPS)
    return scale(cosine).where(graphs.size[graphs.label] > 1, 0.0)


def _inside(whole: Iterable[Neighbourhood], weight: Tensor, scale: Scale) -> Tensor:
    """Nearest, quantiles and levels, (N, 12)."""
    found = weight.new_zeros(len(weight), len(_NEAREST) + len(_QUANTILES) + len(_LEVELS))
    for piece in whole:
        real = piece.similarity > -torch.inf
        level = scale(piece.similarity).where(real, 0.0)  # (M, P)
        mass = weight[piece.neighbour].where(real, 0.0)
        reached = mass.cumsum(1)
        total = reached[:, -1:] + _EPS
        columns = []
        for count in _NEAREST:
            part = (reached.clamp(max=count) - (reached - mass).clamp(max=count)).clamp(min=0)
            columns.append((part * level).sum(1) / (part.sum(1) + _EPS))
        last = (real.sum(1) - 1).clamp(min=0)
        for quantile in _QUANTILES:
            at = (reached < (1 - quantile) * total).sum(1).minimum(last)
            columns.append(level.gather(1, at[:, None])[:, 0])
        for threshold in _LEVELS:
            above = torch.sigmoid((level - threshold) / _SOFTNESS)
            columns.append((mass * above).sum(1) / total[:, 0])
        found[piece.node] = torch.stack(columns, 1)
    return found


def _outside(own_label: Tensor, around: Context, scale: Scale) -> Tensor:
    """Support for the own and for the best other label among the global neighbours, (N, 11)."""
    present = around.label >= 0
    same = (around.label == own_label[:, None]) & present
    other = ~same & present
    level = scale(around.similarity)  # (N, K)
    lowest = level.where(present, torch.inf).amin(1).where(present.any(1), 0.0)

    def nearest_of(which: Tensor, absent: Tensor | float) -> Tensor:
        return level.where(which, -torch.inf).amax(1).where(which.any(1), absent)

    vote = around.weight * torch.sigmoid((level - _SAME_PERSON) / _SOFTNESS)
    own = vote.where(same, 0.0).sum(1)
    best = most_votes(around.label, vote.where(other, 0.0))
    nearest_own, nearest_other = nearest_of(same, lowest), nearest_of(other, lowest)
    nearest = nearest_of(present, 0.0)
    rank = present.cumsum(1)
    share = [(same & (rank <= k)).sum(1) / k for k in _NEAREST_SHARE]
    columns = [
        own.log1p(), best.log1p(), own / (own + best + 0.3), best / (own + best + 0.3),
        nearest_other, nearest_own - nearest_other, *share, nearest,
    ]  # fmt: skip
    return torch.stack(columns, 1)


def most_votes(label: Tensor, vote: Tensor) -> Tensor:
    """The most votes that one label gets in its row of (N, K), (N,)."""
    ordered, order = label.sort(1)
    group = torch.nn.functional.pad((ordered.diff(dim=1) != 0).cumsum(1), (1, 0))
    return torch.zeros_like(vote).scatter_add_(1, group, vote.gather(1, order)).amax(1)
