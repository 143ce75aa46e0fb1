"""Learning the thresholds: a cleaner's answers on freshly planted noise, and an adapter on them."""

import torch
from pydantic import Field

from facetrain.clean.adapter import Judged, ThresholdAdapter, fit_adapter
from facetrain.clean.cleaner import Cleaner, judged, passes
from facetrain.clean.training import GraphConfig, Known, draw_noise, draw_piece
from facetrain.core.config import Config
from facetrain.core.progress import progress
from facetrain.core.rng import derive_seed


class AdapterConfig(Config):
    """The threshold adapter."""

    num_draws: int = Field(8, ge=0)
    """Draws of fresh noise that it learns from; 0 leaves every threshold at 0.5."""
    margin: float = Field(0.1, gt=0, lt=0.5)
    """m_fp and m_fn of the threshold loss, in probability."""
    prior_weight: float = Field(0.001, ge=0)
    """Pull of a threshold towards 0.5."""


def learn_thresholds(
    graph: GraphConfig,
    config: AdapterConfig,
    cleaner: Cleaner,
    source: Known,
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
        seen.append(Judged(piece.graphs, judged(cleaner, piece, features), piece.truth()))
    torch.manual_seed(derive_seed(seed, "adapter"))
    return fit_adapter(seen, margin=config.margin, prior_weight=config.prior_weight)
