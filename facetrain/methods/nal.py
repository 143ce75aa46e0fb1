"""Noise attention on the margin head: samples whose label the model contradicts count less.

Lu, Bo, He: NAL, NeurIPS 2022 (`robust.nal`), in two parts: the attention is trained on the noise
attention loss with the probabilities held, and the backbone on its margin loss times the gate of
Theorem 1, which is that theorem's gradient with the margin's in place of cross-entropy's. The
probabilities are free of margin: with one the gate would be shut from the start. Until the
warm-up is over this is plain training.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from facetrain.core.config import Config
from facetrain.dist.collectives import all_gather_no_grad, all_reduce_sum
from facetrain.dist.shard import shard_range
from facetrain.dist.sharded_rows import ShardedRows
from facetrain.engine.method import Method, StepBatch
from facetrain.heads.margin_head import HeadOutput, MarginHead
from facetrain.heads.sharded_softmax import own_samples
from facetrain.robust.nal import (
    AttentionBranch,
    equilibrium_attention,
    noise_attention_loss,
    target_weight,
)
from facetrain.robust.sparse_targets import SparseTargets

_OPEN = 4.0
"""The attention branch's first logit: all gates are open where the warm-up ends."""


class TargetsConfig(Config):
    """Estimated targets by temporal ensembling, the K most probable classes of each image."""

    count: int = Field(8, ge=2)
    """K, classes that each image keeps."""
    memory: float = Field(0.9, ge=0, le=1)
    """How much of the old target stays at an update."""
    every_epochs: int = Field(1, ge=1)
    """Epochs between updates, which fall into the last of each so many; the authors' code updates
    in every tenth, where the learning rate of its cycle is lowest."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs before the targets may move; none before the gate's own warm-up."""


class NalConfig(Config):
    """Noise attention: one gate a sample, for its label or its estimated targets."""

    name: Literal["nal"]
    """Chooses this method."""
    boost: float = Field(10.0, gt=0)
    """lambda: the gate is open from a probability of 1 / (1 + boost) on. On a frozen
    embedding 0.1 did best; for faces from scratch that shuts the gate on hard clean images."""
    attention: Literal["branch", "equilibrium", "joint"] = "equilibrium"
    """Where the attention would come to rest, or the paper's linear layer on the embedding, which
    does not see the label and tells noise less well. `joint` is the paper's own: the branch begins
    half open and its loss reaches the backbone, which a margin softmax does not bear."""
    warmup_epochs: float = Field(2.0, ge=0)
    """Of plain training, all gates open."""
    dominant: bool = False
    """Judge the label by its dominant sub-centre (`head.num_centres` above 1)."""
    targets: TargetsConfig | None = None
    """Estimate targets for images whose label is doubted; none by default."""


class NalMethod(Method):
    """Gates each sample's margin loss, and with `targets` those of its estimated labels.

    Args:
        label: (N,) dense labels of the data set, the first target of each image.
        folder: for the targets' files.
    """

    def __init__(
        self, config: NalConfig, head: MarginHead, label: Tensor, steps_per_epoch: int, folder: Path
    ) -> None:
        super().__init__(head)
        mesh = head.mesh
        self.config, self.mesh, self.steps_per_epoch = config, mesh, steps_per_epoch
        self._branch: AttentionBranch | None = None
        if config.attention != "equilibrium":
            self._branch = AttentionBranch(head.embedding_size).to(mesh.device)
            if config.attention == "branch":
                nn.init.constant_(self._branch.linear.bias, _OPEN)
            self.trained = self._branch
        self._num_images = len(label)
        self._targets: SparseTargets | None = None
        if config.targets is not None:
            start, stop = shard_range(len(label), mesh.rank, mesh.world_size)
            self._targets = SparseTargets(
                folder, label[start:stop], start=start, num_targets=config.targets.count
            )
        self._updates = False
        self._slot = self._target = torch.empty(0)
        self._weights: list[Tensor] = []
        self._estimated: list[Tensor] = []

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """Fetch the targets of the batch's samples from the ranks that hold them."""
        super().begin_step(step, batch)
        self._weights, self._estimated = [], []
        epoch = step // self.steps_per_epoch
        first = self.config.warmup_epochs * self.steps_per_epoch
        self._warm = step < first
        self._slot, self._target = batch.label[:, None], (batch.label >= 0).float()[:, None]
        if self._targets is None or self.config.targets is None or self._warm:
            return
        targets = self.config.targets
        due = (epoch + 1) % targets.every_epochs == 0
        self._updates = due and step >= targets.warmup_epochs * self.steps_per_epoch
        sample = all_gather_no_grad(batch.index, self.mesh)  # (G,)
        own = own_samples(len(sample), self.mesh)
        label, target = self._targets.read(sample)  # (G, K)
        self._slot = all_reduce_sum(label, self.mesh)[own]
        self._target = all_reduce_sum(target, self.mesh)[own]
        # A record that could not be read is nobody, whatever is remembered of it.
        self._target = self._target * (batch.label >= 0)[:, None]

    def loss(self, embedding: Tensor, part: slice) -> Tensor:
        """The gated margin losses and the attention's own loss, (b,)."""
        slot, target = self._slot[part], self._target[part]  # (b, K)
        output = self.head(embedding, self.batch.label[part], self.batch.margin[part], slot[:, 1:])
        self.margin_loss = output.loss.detach()
        if self._warm:
            plain: Tensor = output.loss
            return plain
        probability = output.plain_probability  # (b, K)
        if self.config.dominant:
            own = (-output.plain_loss(self.head.config.scale, dominant=True)).exp()
            probability = torch.cat([own[:, None], probability[:, 1:]], dim=1)
        if self._branch is None:
            attention = equilibrium_attention(probability, target, self.config.boost)
            of_attention = torch.zeros_like(attention)
        else:
            joint = self.config.attention == "joint"
            attention = self._branch(embedding if joint else embedding.detach())  # (b,)
            of_attention = noise_attention_loss(probability, target, attention, self.config.boost)
        weight = target_weight(probability, target, attention.detach())  # (b, K)
        self._weights.append(weight.sum(1))
        best = target.argmax(1, keepdim=True)
        self._estimated.append(slot.gather(1, best)[:, 0])
        if self._targets is not None and self._updates:
            self._remember(embedding.detach(), output, part)
        loss = (weight * torch.cat([output.loss[:, None], output.extra_loss], dim=1)).sum(1)
        return torch.where(self.batch.label[part] >= 0, loss + of_attention, 0.0)

    def _remember(self, embedding: Tensor, output: HeadOutput, part: slice) -> None:
        """Let the present probabilities into the targets of these samples."""
        assert self._targets is not None
        assert self.config.targets is not None
        scale = self.head.config.scale
        cosine, label = self.head.nearest(embedding, self.config.targets.count)  # (b, K)
        total = torch.logaddexp(output.negative_logsumexp, scale * output.target_cosine)
        probability = torch.exp(scale * cosine - total[:, None])
        new_label = torch.cat([self._slot[part], label], dim=1)  # (b, 2K)
        new_probability = torch.cat([output.plain_probability, probability], dim=1)
        sample = torch.where(self.batch.label[part] >= 0, self.batch.index[part], -1)
        self._targets.update(
            all_gather_no_grad(sample, self.mesh),
            all_gather_no_grad(new_label, self.mesh),
            all_gather_no_grad(new_probability, self.mesh),
            memory=self.config.targets.memory,
        )

    def per_sample(self) -> Mapping[str, Tensor]:
        """Gate of each sample, and the label that its target favours."""
        if self._warm:
            return {}
        found = {"weight": torch.cat(self._weights)}
        return found | ({"estimated_label": torch.cat(self._estimated)} if self._targets else {})

    def tensors(self) -> Mapping[str, Tensor | ShardedRows]:
        """The targets, if they are estimated: on the device, where the ranks can exchange them."""
        if self._targets is None:
            return {}
        arrays = {"label": self._targets.label, "probability": self._targets.probability}
        return {
            f"target_{name}": ShardedRows(value.to(self.mesh.device), self._num_images)
            for name, value in arrays.items()
        }

    def restored(self, tensors: Mapping[str, Tensor | ShardedRows]) -> None:
        """Put what a checkpoint held back into the targets' files."""
        if self._targets is not None:
            for name in ("label", "probability"):
                rows = tensors[f"target_{name}"]
                assert isinstance(rows, ShardedRows)
                getattr(self._targets, name).copy_(rows.local)
