"""What a training step minimises: the head's margin loss, or what a method makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from facetrain.dist.sharded_rows import ShardedRows
from facetrain.heads.margin_head import MarginHead


@dataclass(frozen=True)
class StepBatch:
    """One step's images of this rank, on the device."""

    image: Tensor
    """(B, 3, H, W) float in [-1, 1], augmented; or the floats that the batch had."""
    label: Tensor
    """(B,) int64; -1 where there is no image."""
    index: Tensor
    """(B,) int64 position in the data set; -1 for padding."""
    margin: Tensor
    """(B,) the head's own margin, as far as it has risen."""


class Method:
    """The plain margin loss, and the hooks by which a method differs from it.

    In every step `begin_step` comes first, then `loss` for each micro-batch, then `end_step`.
    Every rank calls the same of them, so collectives are allowed in all.

    Attributes:
        trained: modules that the optimiser trains besides the backbone and the centres, the same
            on every rank; their gradients are summed over ranks by the trainer.
        batch: of the step under way.
        margin_loss: (b,) of the last micro-batch without the method's weights: what the log tells
            and the divergence guard judges.
    """

    trained: nn.Module | None = None
    batch: StepBatch
    margin_loss: Tensor

    def __init__(self, head: MarginHead) -> None:
        self.head = head

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """Look ahead, where a method must; `step` counts from 0."""
        del step
        self.batch = batch

    def loss(self, embedding: Tensor, part: slice) -> Tensor:
        """What is minimised of each sample of a micro-batch, (b,); sets `margin_loss`.

        The trainer divides the sum by the size of the whole batch.

        Args:
            embedding: (b, D) of the images `batch.image[part]`.
            part: rows of the batch.
        """
        loss: Tensor = self.head(embedding, self.batch.label[part], self.batch.margin[part]).loss
        self.margin_loss = loss.detach()
        return loss

    def end_step(self) -> None:
        """After the backward passes, before the optimiser moves."""

    def per_sample(self) -> Mapping[str, Tensor]:
        """What the step gave to each of its samples, (B,) each, to be kept for pictures."""
        return {}

    def tensors(self) -> Mapping[str, Tensor | ShardedRows]:
        """State for the checkpoint besides `trained`, filled in place when one is read."""
        return {}

    def restored(self, tensors: Mapping[str, Tensor | ShardedRows]) -> None:
        """After a checkpoint was read into `tensors`, which `tensors()` had returned."""

    def start(self, step: int) -> None:
        """Before the first step of this process, which is `step`."""
