"""SuperLoss on the margin head: samples with a high loss count less.

Castells, Weinzaepfel, Revaud, NeurIPS 2020 (`robust.superloss`). The confidence is computed from
the cross-entropy without margin and multiplies the loss with margin: a margin that rises, or
another scale, does not move the threshold, and log C keeps its meaning. Ours, not the paper's.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from facetrain.core.config import Config
from facetrain.core.option_of import Of
from facetrain.dist.collectives import all_reduce_sum
from facetrain.engine.method import Method, StepBatch
from facetrain.heads.margin_head import MarginHead
from facetrain.robust.superloss import Tau, TauKind, confidence, loss_sum_and_count, scaled_lambda


class SuperLossConfig(Config):
    """SuperLoss: one weight a sample, in closed form from its loss."""

    name: Literal["superloss"]
    """Chooses this method."""
    tau: TauKind = "exponential"
    """What a loss is compared with: log C, or a running or exponential mean of the losses."""
    smoothing: Annotated[float, Of("tau", ("exponential",))] = Field(0.9, ge=0, lt=1)
    """Of the exponential mean."""
    lam: float = Field(1.0, gt=0)
    """Regularisation, in units of the loss; large makes all weights 1. A constant, as in the
    paper: as the losses fall, the weights come back to 1."""
    lam_follows_tau: bool = False
    """Ours: `lam` is meant for a mean loss of ln 10 and shrinks with tau, so that the weights
    depend on loss / mean loss alone and stay as sharp to the end."""
    dominant: bool = False
    """Judge the label by its dominant sub-centre (`head.num_centres` above 1)."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Of plain training, all weights 1; the threshold follows the losses."""


class SuperLossMethod(Method):
    """Weighs every sample by its confidence; the threshold is that of all ranks' samples.

    A micro-batch of an accumulated step counts as a batch of its own.
    """

    def __init__(self, config: SuperLossConfig, head: MarginHead, steps_per_epoch: int) -> None:
        super().__init__(head)
        self.config, self.mesh = config, head.mesh
        self._first = config.warmup_epochs * steps_per_epoch
        self._warm = False
        classes = head.num_classes if config.tau == "log_classes" else None
        self.tau = Tau(config.tau, num_classes=classes, smoothing=config.smoothing).to(
            head.mesh.device
        )
        self._weights: list[Tensor] = []

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """A new batch has no weights yet."""
        super().begin_step(step, batch)
        self._warm = step < self._first
        self._weights = []

    def loss(self, embedding: Tensor, part: slice) -> Tensor:
        """The margin loss times the confidence, (b,)."""
        label = self.batch.label[part]
        output = self.head(embedding, label, self.batch.margin[part])
        self.margin_loss = output.loss.detach()
        plain = output.plain_loss(self.head.config.scale, dominant=self.config.dominant)  # (b,)
        both = torch.stack(loss_sum_and_count(plain, label >= 0))
        tau = self.tau.update(*all_reduce_sum(both, self.mesh))
        config = self.config
        lam = scaled_lambda(config.lam, tau) if config.lam_follows_tau else config.lam
        weight = confidence(plain, tau, lam).to(plain.dtype)
        if self._warm:
            weight = torch.ones_like(weight)
        self._weights.append(weight)
        weighted: Tensor = weight * output.loss
        return weighted

    def per_sample(self) -> Mapping[str, Tensor]:
        """Confidence of each sample."""
        return {"weight": torch.cat(self._weights)}

    def tensors(self) -> Mapping[str, Tensor]:
        """The threshold's running mean."""
        return dict(self.tau.named_buffers())
