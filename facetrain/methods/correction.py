"""Labels corrected while training: a sample that lies beyond another class's boundary changes side.

After Wu et al.: BoundaryFace, ECCV 2022. Where the nearest other class beats the given label even
with the margin against it, that class is the target of the step. Nothing is remembered: a label is
judged anew each time its image comes, so a wrong move is taken back as the model gets better.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from facetrain.core.config import Config
from facetrain.engine.method import Method, StepBatch
from facetrain.heads.margin_head import MarginHead


class CorrectionConfig(Config):
    """Label correction: the nearest class is the target where it beats the label by the margin."""

    name: Literal["correction"]
    """Chooses this method."""
    warmup_epochs: float = Field(2.0, ge=0)
    """Of plain training: until the centres are those of the clean images, nearest says little."""


class CorrectionMethod(Method):
    """The margin loss of the given label, or of the nearest class where its cosine is far above."""

    def __init__(self, config: CorrectionConfig, head: MarginHead, steps_per_epoch: int) -> None:
        super().__init__(head)
        self._first = config.warmup_epochs * steps_per_epoch
        self._warm = False
        self._labels: list[Tensor] = []

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """A new batch has no corrected labels yet."""
        super().begin_step(step, batch)
        self._warm, self._labels = step < self._first, []

    def loss(self, embedding: Tensor, part: slice) -> Tensor:
        """The margin loss of the label that counts, (b,)."""
        if self._warm:
            return super().loss(embedding, part)
        label, margin = self.batch.label[part], self.batch.margin[part]
        cosine, nearest = self.head.nearest(embedding.detach(), 1)  # (b, 1)
        output = self.head(embedding, label, margin, nearest)
        with torch.no_grad(), self.head.frozen_statistics():
            handicapped = self.head.with_margin(cosine, margin, embedding, label)[:, 0]
        other = nearest[:, 0] != label
        moved = (label >= 0) & other & (handicapped > output.target_cosine)
        self._labels.append(torch.where(moved, nearest[:, 0], label))
        self.margin_loss = output.loss.detach()
        return torch.where(moved, output.extra_loss[:, 0], output.loss)

    def per_sample(self) -> Mapping[str, Tensor]:
        """The label that each sample was trained on."""
        return {"estimated_label": torch.cat(self._labels)} if self._labels else {}
