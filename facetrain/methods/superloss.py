"""SuperLoss on the margin head: samples with a high loss count less.

Castells, Weinzaepfel, Revaud, NeurIPS 2020 (`robust.superloss`). The confidence is computed from
the cross-entropy without margin and multiplies the loss with margin: a margin that rises, or
another scale, does not move the threshold, and log C keeps its meaning. Ours, not the paper's.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from facetrain.core.config import Config
from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import Mesh
from facetrain.engine.method import Method, StepBatch
from facetrain.heads.margin_head import MarginHead
from facetrain.robust.superloss import Tau, TauKind, confidence, loss_sum_and_count, scaled_lambda


class SuperLossConfig(Config):
    """SuperLoss: one weight a sample, in closed form from its loss."""

    name: Literal["superloss"]
    tau: TauKind = "exponential"
    """What a loss is compared with: log C, or a running or exponential mean of the losses."""
    smoothing: float = Field(0.9, ge=0, lt=1)
    """Of the exponential mean."""
    lam: float = Field(1.0, gt=0)
    """Regularisation for a mean loss of ln 10, scaled with tau; large makes all weights 1."""


class SuperLossMethod(Method):
    """Weighs every sample by its confidence; the threshold is that of all ranks' samples.

    A micro-batch of an accumulated step counts as a batch of its own.
    """

    def __init__(self, config: SuperLossConfig, head: MarginHead, mesh: Mesh) -> None:
        super().__init__(head)
        self.config, self.mesh = config, mesh
        classes = head.num_classes if config.tau == "log_classes" else None
        self.tau = Tau(config.tau, num_classes=classes, smoothing=config.smoothing).to(mesh.device)
        self._weights: list[Tensor] = []

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """A new batch has no weights yet."""
        super().begin_step(step, batch)
        self._weights = []

    def loss(self, embedding: Tensor, part: slice) -> Tensor:
        """The margin loss times the confidence, (b,)."""
        label = self.batch.label[part]
        output = self.head(embedding, label, self.batch.margin[part])
        self.margin_loss = output.loss.detach()
        scale = self.head.config.scale
        plain = F.softplus(output.negative_logsumexp - scale * output.target_cosine)  # (b,)
        both = torch.stack(loss_sum_and_count(plain, label >= 0))
        tau = self.tau.update(*all_reduce_sum(both, self.mesh))
        weight = confidence(plain, tau, scaled_lambda(self.config.lam, tau)).to(plain.dtype)
        self._weights.append(weight)
        weighted: Tensor = weight * output.loss
        return weighted

    def per_sample(self) -> Mapping[str, Tensor]:
        """Confidence of each sample."""
        return {"weight": torch.cat(self._weights)}

    def tensors(self) -> Mapping[str, Tensor]:
        """The threshold's running mean."""
        return dict(self.tau.named_buffers())
