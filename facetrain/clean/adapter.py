"""The threshold adapter: how sure the cleaner must be, class by class.

ADC (Zhang et al., ICCV 2021) trains it with the loss of `threshold_loss.py`; its inputs and
layers are not in the supplement and are our choice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from facetrain.clean.cleaner import Cleaner, passes, probability_on
from facetrain.clean.threshold_loss import threshold_loss
from facetrain.clean.training import GraphConfig, TrustedLabels, draw_noise, draw_piece
from facetrain.core.config import Config
from facetrain.core.progress import progress
from facetrain.core.rng import derive_seed
from facetrain.graph.class_graphs import ClassGraphs

_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


class AdapterConfig(Config):
    """The threshold adapter."""

    num_draws: int = Field(8, ge=0)
    """Draws of fresh noise that it learns from; 0 leaves every threshold at 0.5."""
    margin: float = Field(0.1, gt=0, lt=0.5)
    """m_fp and m_fn of the threshold loss, in probability."""
    prior_weight: float = Field(0.001, ge=0)
    """Pull of a threshold towards 0.5."""


def class_summary(clean_probability: Tensor, graphs: ClassGraphs) -> Tensor:
    """What the adapter knows of each class, (C, S); the order of its images plays no part.

    Quantiles, mean and spread of the class's probabilities, its log size, and the mean over all
    images, by which a class is compared with the others.

    Args:
        clean_probability: (N,) by node.
    """
    size = graphs.size.to(clean_probability.dtype)
    order = torch.argsort(clean_probability, stable=True)
    order = order[torch.argsort(graphs.label[order], stable=True)]
    ascending = clean_probability[order]
    columns = []
    for quantile in _QUANTILES:
        place = graphs.start[:-1] + ((size - 1) * quantile).long()
        columns.append(torch.logit(ascending[place], eps=1e-4) / 4)
    mean = graphs.sum(clean_probability) / size
    variance = graphs.sum((clean_probability - mean[graphs.label]) ** 2) / size
    overall = clean_probability.mean().expand(len(size))
    return torch.stack([*columns, mean, (variance + 1e-6).sqrt(), size.log(), overall], dim=1)


class ScoredClasses(NamedTuple):
    """A labelled set after the cleaner, with what is known of its labels."""

    graphs: ClassGraphs
    clean_probability: Tensor  # (N,) by node
    is_clean: Tensor  # (N,) bool, true or planted


class ThresholdAdapter(nn.Module):
    """Summary of a class -> its threshold in (0, 1); 0.5 before training.

    What lies outside of what it was trained on counts as the nearest that was: from few draws,
    alike in their noise rates, a target's rate leads so far out that every threshold falls to 0.

    Args:
        summary: (C, S) of many classes; its mean and spread standardise the input, and its range
            bounds it.
    """

    def __init__(self, summary: Tensor, width: int = 64) -> None:
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.least: Tensor
        self.most: Tensor
        self.register_buffer("least", summary.amin(0))
        self.register_buffer("most", summary.amax(0))
        self.register_buffer("mean", summary.mean(0))
        self.register_buffer("spread", summary.std(0) + 1e-2)
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(summary.shape[1], width), nn.ReLU(), last)

    def forward(self, summary: Tensor) -> Tensor:
        """Logit of the threshold, (C,)."""
        summary = summary.clamp(self.least, self.most)
        logit: Tensor = self.layers((summary - self.mean) / self.spread).squeeze(1)
        return logit

    def threshold(self, clean_probability: Tensor, graphs: ClassGraphs) -> Tensor:
        """Threshold of each class, (C,) in (0, 1)."""
        return torch.sigmoid(self(class_summary(clean_probability, graphs)))


def fit_adapter(
    judged: Sequence[ScoredClasses],
    *,
    margin: float,
    prior_weight: float,
    steps: int = 400,
    learning_rate: float = 3e-3,
) -> ThresholdAdapter:
    """Train an adapter on labelled sets, one a step in turn, the probabilities held fixed.

    Noise and clean images weigh the same in sum: in the paper's plain mean a few clean images
    that no cleaner can recognise pull the thresholds of pure classes to zero.

    Args:
        margin: m_fp and m_fn of the loss, in probability.
        prior_weight: of the squared logit, which holds a threshold at 0.5 where the loss is flat.
    """
    summaries = [class_summary(one.clean_probability, one.graphs) for one in judged]
    adapter = ThresholdAdapter(torch.cat(summaries)).to(summaries[0].device)
    optimizer = torch.optim.Adam(adapter.parameters(), learning_rate)
    for step in range(steps):
        one, summary = judged[step % len(judged)], summaries[step % len(judged)]
        logit = adapter(summary)
        loss = threshold_loss(
            one.clean_probability,
            torch.sigmoid(logit)[one.graphs.label],
            one.is_clean,
            margin_false_positive=margin,
            margin_false_negative=margin,
        )
        balanced = (_mean(loss[one.is_clean]) + _mean(loss[~one.is_clean])) / 2
        optimizer.zero_grad()
        (balanced + prior_weight * (logit**2).mean()).backward()
        optimizer.step()
    return adapter


def _mean(loss: Tensor) -> Tensor:
    """The mean, 0 of nothing."""
    return loss.sum() / max(len(loss), 1)


def learn_thresholds(
    graph: GraphConfig,
    config: AdapterConfig,
    cleaner: Cleaner,
    source: TrustedLabels,
    seed: int,
    *,
    show: bool,
) -> ThresholdAdapter:
    """The threshold adapter of `cleaner`, trained on fresh noise in the source.

    Draws of the target's own believed images serve no better where there is a source: the images
    that are hard to judge are not among them (docs/log.md).
    """
    seen = []
    draws = range(config.num_draws)
    for draw in progress(draws, "clean: thresholds", total=len(draws), enabled=show):
        piece = draw_piece(draw_noise(graph, source, seed, "adapter", draw), seed, "adapter", draw)
        *_, features = passes(cleaner, piece)
        seen.append(
            ScoredClasses(piece.graphs, probability_on(cleaner, piece, features), piece.truth())
        )
    torch.manual_seed(derive_seed(seed, "adapter"))
    return fit_adapter(seen, margin=config.margin, prior_weight=config.prior_weight)
