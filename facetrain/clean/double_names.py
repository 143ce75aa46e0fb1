"""One person under two names: the likelihood of whole classes."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from facetrain.clean.links import linked_groups
from facetrain.clean.posterior import Members, Posterior
from facetrain.core.rng import torch_generator

_AT_ONCE, _IMAGES_AT_ONCE = 1 << 12, 1 << 18
_STEPS = 12
_NATS = 10.0
_LOW = 0.01
"""Quantile of the planted hypotheses' evidence from which another counts as one of them."""
_PLANTED = 4096
_SURE = 0.8
"""Probability from which two names are joined: for people to look at, so rather right than many."""


def double_names(found: Posterior, members: Members, seed: int) -> Tensor:
    """The class (C,) whose name each should take: the largest of its person, perhaps itself.

    The log ratio log m(t_a + t_b, n_a + n_b) - log m(t_a, n_a) - log m(t_b, n_b) of every class and
    the classes of its images' neighbours becomes a probability by classes divided at random, which
    are one person. The first among equals gives its name.

    Args:
        members: of all that carry each label.
        seed: of the division.
    """
    model, num_classes = found.model, found.labelled.classes.num_classes
    keys = []  # of pairs of classes of which an image of one has the other as a candidate
    for part in torch.split(found.place, _IMAGES_AT_ONCE):
        own, other = part[:, :1].expand(-1, part.shape[1] - 1), part[:, 1:]
        real = (own >= 0) & (other >= 0)
        low, high = torch.minimum(own, other)[real], torch.maximum(own, other)[real]
        keys.append(torch.unique(low * num_classes + high))
    key = torch.unique(torch.cat(keys))
    first, second = key // num_classes, key % num_classes
    alone = model.log_evidence(*members)
    ratio = []
    for a, b in zip(torch.split(first, _AT_ONCE), torch.split(second, _AT_ONCE), strict=True):
        both = (one[a] + one[b] for one in members)
        ratio.append(model.log_evidence(*both) - alone[a] - alone[b])
    joined = positive_probability(torch.cat(ratio), _divided(found, seed)) > _SURE
    group = linked_groups(num_classes, first[joined], second[joined])
    by_size = found.labelled.size * num_classes - torch.arange(num_classes, device=group.device)
    largest = torch.zeros_like(group).scatter_reduce(0, group, by_size, "amax")
    return -largest[group] % num_classes


def positive_probability(log_ratio: Tensor, positive: Tensor) -> Tensor:
    """Probability (K,) that each of a set's hypotheses is true, from its log ratio (K,).

    Logistic regression of true hypotheses' ratios (P,) against the set's own, these weighed by how
    probable they are false, the true ones by how many there are: EM for learning from positive and
    unlabelled examples (Elkan and Noto, KDD 2008).
    """
    if len(log_ratio) == 0 or len(positive) == 0:
        return torch.zeros_like(log_ratio)
    known, asked = (one.cpu().numpy()[:, None] / _NATS for one in (positive, log_ratio))
    ratio = np.concatenate([known, asked])
    truth = np.arange(len(ratio)) < len(known)
    # Begun at those that look like true ones; from none the share would stay at none.
    probability = (asked[:, 0] > np.quantile(known, _LOW)).astype(float)
    for _ in range(_STEPS):
        share = max(float(probability.mean()), 1 / len(asked))
        known_weight = np.full(len(known), share * len(asked) / len(known))
        weight = np.concatenate([known_weight, 1 - probability])
        fitted = LogisticRegression(C=1e4).fit(ratio, truth, sample_weight=weight)
        if fitted.coef_[0, 0] <= 0:  # more evidence means nothing here: nothing to be found
            return torch.zeros_like(log_ratio)
        probability = fitted.predict_proba(asked)[:, 1]
    return torch.from_numpy(probability).float().to(log_ratio.device)


def _divided(found: Posterior, seed: int) -> Tensor:
    """The same ratio of the parts of classes that are divided at random, (P,)."""
    classes, log_evidence = found.labelled.classes, found.model.log_evidence
    generator = torch_generator(seed, "divided")
    several = torch.nonzero(classes.size > 1)[:, 0]
    chosen = several[torch.randperm(len(several), generator=generator)[:_PLANTED]]
    graphs = classes.subset(chosen)
    cut = torch.rand(len(chosen), generator=generator)
    cut = (1 + (cut * (graphs.size - 1)).long()).clamp(max=graphs.size - 1)  # images in one part
    rank = torch.rand(graphs.num_nodes, generator=generator)
    row = graphs.row[(graphs.label + rank.double()).argsort()].to(found.counts.device)
    nth = torch.arange(graphs.num_nodes) - graphs.start[:-1][graphs.label]
    part = (2 * graphs.label + (nth >= cut[graphs.label])).to(row.device)
    counts = found.probability[row, 0] * found.counts[row]
    halves = found.members(row, part, counts, 2 * len(chosen))
    whole = Members(*(one.reshape(-1, 2, *one.shape[1:]).sum(1) for one in halves))
    ratio = log_evidence(*whole) - log_evidence(*halves).reshape(-1, 2).sum(1)
    return ratio[halves.precision.reshape(-1, 2).amin(1) > 0.5]
