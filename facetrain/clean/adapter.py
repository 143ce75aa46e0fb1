"""The threshold adapter: how sure the cleaner must be, class by class.

ADC (Zhang et al., ICCV 2021) trains it with the loss of `threshold_loss.py`; its inputs and
layers are not in the supplement and are our choice.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from facetrain.clean.cleaner import Cleaner, passes
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.threshold_loss import threshold_loss
from facetrain.clean.training import noisy_piece
from facetrain.core.config import Config
from facetrain.core.progress import progress
from facetrain.core.rng import derive_seed
from facetrain.graph.class_graphs import ClassGraphs

_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_WIDTH, _STEPS, _LEARNING_RATE = 64, 400, 3e-3


class AdapterConfig(Config):
    """The threshold adapter."""

    num_draws: int = Field(8, ge=0)
    """Draws of fresh noise that it learns from; 0 leaves every threshold at 0.5."""
    margin: float = Field(0.1, gt=0, lt=0.5)
    """m_fp and m_fn of the threshold loss, in probability."""
    prior_weight: float = Field(0.001, ge=0)
    """Pull of a threshold towards 0.5, where the loss is flat."""


def class_summary(clean_probability: Tensor, graphs: ClassGraphs) -> Tensor:
    """What the adapter reads of each class, (C, S); the order of its images plays no part.

    Quantiles, mean and spread of the class's probabilities (N,), its log size, and the mean over
    all images, by which a class is compared with the others.
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


class ThresholdAdapter(nn.Module):
    """Summary of a class -> its threshold in (0, 1); 0.5 before training.

    Args:
        summary: (C, S) of many classes. Their mean and spread standardise the input, and one
            outside of their range counts as the nearest inside.
    """

    def __init__(self, summary: Tensor) -> None:
        super().__init__()
        self.least, self.most = nn.Buffer(summary.amin(0)), nn.Buffer(summary.amax(0))
        self.mean, self.spread = nn.Buffer(summary.mean(0)), nn.Buffer(summary.std(0) + 1e-2)
        last = nn.Linear(_WIDTH, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(summary.shape[1], _WIDTH), nn.ReLU(), last)

    def forward(self, summary: Tensor) -> Tensor:
        """Logit of the threshold, (C,)."""
        summary = summary.clamp(self.least, self.most)
        logit: Tensor = self.layers((summary - self.mean) / self.spread).squeeze(1)
        return logit


def fit_adapter(
    classes: Sequence[tuple[ClassGraphs, Tensor, Tensor]], *, margin: float, prior_weight: float
) -> ThresholdAdapter:
    """Train an adapter on labelled sets, one a step in turn, the probabilities held fixed.

    Noise and clean images weigh the same in sum: in the paper's plain mean a few clean images
    that no cleaner can recognise pull the thresholds of pure classes to zero.

    Args:
        classes: of each set its graphs, clean probabilities (N,) and truth (N,) bool, by node.
        margin: m_fp and m_fn of the loss, in probability.
        prior_weight: of the squared logit, which holds a threshold at 0.5 where the loss is flat.
    """
    summaries = [class_summary(probability, graphs) for graphs, probability, _ in classes]
    adapter = ThresholdAdapter(torch.cat(summaries)).to(summaries[0].device)
    optimizer = torch.optim.Adam(adapter.parameters(), _LEARNING_RATE)
    margins = {"margin_false_positive": margin, "margin_false_negative": margin}
    for step in range(_STEPS):
        graphs, probability, is_clean = classes[step % len(classes)]
        logit = adapter(summaries[step % len(classes)])
        threshold = torch.sigmoid(logit)[graphs.label]
        loss = threshold_loss(probability, threshold, is_clean, **margins)
        halves = [part.sum() / max(len(part), 1) for part in (loss[is_clean], loss[~is_clean])]
        optimizer.zero_grad()
        (sum(halves) / 2 + prior_weight * (logit**2).mean()).backward()
        optimizer.step()
    return adapter


def learn_thresholds(
    config: AdapterConfig, cleaner: Cleaner, source: LabelledSet, seed: int, *, show: bool
) -> ThresholdAdapter:
    """The threshold adapter of `cleaner`, trained on fresh noise in the source.

    Not on the target's pseudo-labelled images: the hard ones are not among them.
    """
    seen = []
    for draw in progress(range(config.num_draws), "clean: thresholds", enabled=show):
        piece = noisy_piece(source.with_noise(seed, "adapter", draw), seed, "adapter", draw)
        *_, features = passes(cleaner, piece)
        seen.append((piece.graphs, cleaner.probability(piece, features), piece.truth()))
    torch.manual_seed(derive_seed(seed, "adapter"))
    return fit_adapter(seen, margin=config.margin, prior_weight=config.prior_weight)
