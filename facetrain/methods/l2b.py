"""Learning to bootstrap on the margin head: trusted images choose each sample's two weights.

Zhou et al.: L2B, CVPR 2024 (`robust.l2b`). A sample is trained on its given label and on its
pseudo-label, the nearest class now, weighted by how much a step along either loss would lower the
loss of trusted images. All inner products with that one meta-gradient are a derivative along it:
one backward pass over the trusted images and two forward passes over the batch, over the whole
backbone and all class centres, in float32 and with frozen running statistics.

Over ranks: the meta-gradient of the backbone is summed, that of the centres is each shard's own,
and the weights are normalised over the samples of all ranks.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from facetrain.core.config import Config
from facetrain.core.option_of import Of
from facetrain.core.rng import derive_seed
from facetrain.data.batches.augment import AugmentConfig, augment, draw
from facetrain.data.batches.loader import Batch
from facetrain.dist.collectives import all_gather_no_grad, all_reduce_sum
from facetrain.engine.method import Method, StepBatch
from facetrain.heads.margin_head import MarginHead
from facetrain.heads.sharded_softmax import own_samples
from facetrain.models.frozen_statistics import frozen_statistics
from facetrain.robust.l2b import Normalisation, Parameters, directional_derivative, normalise

_CENTRES = "centres"


class L2bConfig(Config):
    """Learning to bootstrap: two weights a sample, from trusted images."""

    name: Literal["l2b"]
    """Chooses this method."""
    trusted: Path
    """An overlay (.npz or a folder's overlay.npz): the images it keeps are trusted."""
    batch_size: int = Field(64, ge=2, le=1 << 20)
    """Trusted images a look-ahead, over all ranks."""
    hold_out: bool = True
    """Trusted images are not trained on themselves, as the authors have it: the loss of an image
    that was learned tells nothing of other images."""
    every: int = Field(1, ge=1)
    """Steps from one look-ahead to the next. The others are plain training, on the noise too: 4
    costs little more than plain training, and three steps of four are that."""
    normalisation: Normalisation = "clamp"
    """How the weights of a batch are brought to a sum of 1."""
    pseudo_labels: bool = True
    """Train on the nearest class too; false weighs the given labels alone, which is learning to
    reweight (Ren et al.: L2RW, ICML 2018)."""
    temperature: Annotated[float, Of("normalisation", ("softmax",))] = Field(1.0, gt=0)
    """Of the normalisation `softmax`."""
    warmup_epochs: float = Field(2.0, ge=0)
    """Of plain training."""
    distance: float = Field(0.01, gt=0)
    """Length of the step of the finite difference, in parameter space."""


class Trusted(NamedTuple):
    """The trusted images, as the look-aheads take them.

    Attributes:
        batches: number of a look-ahead -> this rank's batches from it on.
        augment: how images of 0 to 255 are changed.
        seed: of that, and of the dropout.
        held_out: (N,) bool, training images that are not trained on.
    """

    batches: Callable[[int], Iterable[Batch]]
    augment: AugmentConfig
    seed: int
    held_out: Tensor


class L2bMethod(Method):
    """Weighs the losses of given and pseudo-label; `backbone` is the module itself, without DDP."""

    def __init__(
        self,
        config: L2bConfig,
        head: MarginHead,
        backbone: nn.Module,
        trusted: Trusted,
        steps_per_epoch: int,
    ) -> None:
        super().__init__(head)
        self.config, self.backbone, self.mesh = config, backbone, head.mesh
        self._batches, self._augment, self.seed, held_out = trusted
        self._held_out = held_out.to(head.mesh.device)
        self._first = round(config.warmup_epochs * steps_per_epoch)
        self._trusted: Iterator[Batch] = iter(())
        self._direction: Parameters = {}
        self._step_size = torch.zeros(())
        self._looks = False
        self._seed_of_step = 0
        self._kept: dict[str, Tensor] = {}

    def start(self, step: int) -> None:
        """Begin the trusted images where this step's look-ahead has them."""
        done = len(range(self._first, step, self.config.every))
        self._trusted = iter(self._batches(done))

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """The gradient of the trusted images' mean loss: the direction to look along."""
        held_out = self._held_out[batch.index.clamp_min(0)] & (batch.index >= 0)
        super().begin_step(step, replace(batch, label=batch.label.masked_fill(held_out, -1)))
        self._kept = {}
        after = step - self._first
        self._looks = after >= 0 and after % self.config.every == 0
        if self._looks:
            self._seed_of_step = derive_seed(self.seed, "look ahead", step, self.mesh.rank)
            number = after // self.config.every
            with torch.autocast(batch.image.device.type, enabled=False):
                self._look_ahead(next(self._trusted), number, batch.margin[0])

    def _look_ahead(self, trusted: Batch, number: int, margin: Tensor) -> None:
        device, rank, rows = self.mesh.device, self.mesh.rank, len(trusted.label)
        image = trusted.image.to(device, non_blocking=True)
        if not image.is_floating_point():
            drawn = draw(self._augment, self.config.batch_size, self.seed, number)
            own = drawn.slice(rank * rows, (rank + 1) * rows).to(device)
            image = augment(image, own)
        label = trusted.label.to(device, non_blocking=True)
        parameters = {n: p for n, p in self.backbone.named_parameters() if p.requires_grad}
        with frozen_statistics(self.backbone), self._same_dropout():
            embedding = self.backbone(image)
        with self.head.frozen_statistics():
            loss = self.head(embedding, label, margin.expand(rows)).loss
        loss = loss.sum() / self.config.batch_size
        leaves = [*parameters.values(), self.head.weight]
        gradient = torch.autograd.grad(loss, leaves)
        self._direction = dict(zip(parameters, gradient[:-1], strict=True))
        for value in self._direction.values():
            all_reduce_sum(value, self.mesh)
        shard = all_reduce_sum(gradient[-1].square().sum(), self.mesh)
        squares = [value.square().sum() for value in self._direction.values()]
        norm = torch.stack([shard, *squares]).sum().sqrt()
        self._direction[_CENTRES] = gradient[-1]
        self._step_size = torch.where(norm > 0, self.config.distance / norm, 0.0)

    def loss(self, embedding: Tensor, part: slice) -> Tensor:
        """Alpha f + beta g, times the size of the whole batch since the trainer divides by it."""
        batch = self.batch
        label, margin = batch.label[part], batch.margin[part]
        if not self._looks:
            return super().loss(embedding, part)
        pseudo = self.head.nearest(embedding.detach(), 1)[1]  # (B, 1)
        alpha, beta = self._weights(pseudo)
        self._kept = {"alpha": alpha, "beta": beta, "estimated_label": pseudo[:, 0]}
        output = self.head(embedding, label, margin, pseudo)
        self.margin_loss = output.loss.detach()
        both: Tensor = alpha * output.loss + beta * output.extra_loss[:, 0]
        return both

    def _weights(self, pseudo: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) each; over the samples of all ranks the two sum to their number."""
        image, label, margin = self.batch.image, self.batch.label, self.batch.margin
        parameters = {n: p.detach() for n, p in self.backbone.named_parameters()}
        theta = {name: parameters[name] for name in self._direction if name != _CENTRES}
        theta[_CENTRES] = self.head.weight.detach()

        def losses(at: Parameters) -> Tensor:
            moved = {**parameters, **{n: v for n, v in at.items() if n != _CENTRES}}
            with self._same_dropout():
                embedding = functional_call(self.backbone, moved, (image,))
            given = (embedding, label, margin, pseudo)
            output = functional_call(self.head, {"weight": at[_CENTRES]}, given)
            return torch.stack([output.loss, output.extra_loss[:, 0]])  # (2, B)

        off = torch.autocast(image.device.type, enabled=False)
        with off, frozen_statistics(self.backbone), self.head.frozen_statistics():
            raw = directional_derivative(losses, theta, self._direction, self._step_size)
        # Nobody must have no weight, also where the normalisation gives some to a value of 0.
        raw = torch.where(label >= 0, raw, -torch.inf)
        if not self.config.pseudo_labels:
            raw[1] = -torch.inf
        everyone = all_gather_no_grad(raw.T.contiguous(), self.mesh)  # (G, 2)
        weight = torch.stack(
            normalise(
                everyone[:, 0],
                everyone[:, 1],
                self.config.normalisation,
                temperature=self.config.temperature,
            )
        )  # (2, G)
        number = all_reduce_sum((label >= 0).sum(), self.mesh)
        alpha, beta = (weight * number)[:, own_samples(len(everyone), self.mesh)]
        return alpha, beta

    @contextlib.contextmanager
    def _same_dropout(self) -> Iterator[None]:
        """Every pass of a step draws the same random numbers, and the real pass those it would."""
        device = self.mesh.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self._seed_of_step)
            yield

    def per_sample(self) -> Mapping[str, Tensor]:
        """Both weights and the pseudo-label, in a step that looked ahead."""
        return self._kept
