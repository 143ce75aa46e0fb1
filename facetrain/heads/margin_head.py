"""The one head: (embedding, label) -> per-sample margin-softmax loss over sharded class centres.

Nothing is reduced or weighted here, so methods work on plain per-sample values: MvCoM gives a
margin, SuperLoss, NAL and L2B multiply the loss by a weight, NAL and L2B ask for the loss of
further labels. Second derivatives through the head are not supported.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facetrain.core.errors import DataError
from facetrain.core.rng import torch_generator
from facetrain.dist.collectives import all_gather_no_grad, all_gather_rows, all_reduce_sum
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.dist.sharded_rows import ShardedRows
from facetrain.heads import margins
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.initial_centres import initial_centres
from facetrain.heads.nearest import largest, nearest_rows
from facetrain.heads.negatives import position_in_sample, sample_classes
from facetrain.heads.norm_statistics import NormStatistics
from facetrain.heads.sharded_softmax import NO_CLASS, own_samples, sharded_cosines
from facetrain.heads.sub_centres import Votes


@dataclass(frozen=True)
class HeadOutput:
    """What the head says of this rank's B samples; only the losses carry gradients.

    `negative_logsumexp` is over the logits of all classes but the label. Samples with label -1
    have losses, cosine and probabilities 0.
    """

    loss: Tensor
    """(B,) of the label; exp(-loss) is its probability under the margin."""
    extra_loss: Tensor
    """(B, K) the same with extra label k as the target; 0 where that is -1."""
    target_cosine: Tensor
    """(B,) cosine to the label's (nearest) class centre, before the margin."""
    dominant_cosine: Tensor
    """(B,) cosine to the label's dominant sub-centre; `target_cosine` with one centre a class."""
    target_probability: Tensor
    """(B,) softmax probability of the label under the margin."""
    plain_probability: Tensor
    """(B, 1 + K) softmax probability without a margin of the label and of each extra label."""
    negative_logsumexp: Tensor
    """(B,)"""

    def plain_loss(self, scale: float, *, dominant: bool = False) -> Tensor:
        """(B,) loss of the label without a margin, by its nearest or its dominant sub-centre."""
        cosine = self.dominant_cosine if dominant else self.target_cosine
        return F.softplus(self.negative_logsumexp - scale * cosine)


class MarginHead(nn.Module):
    """Softmax over `num_classes` class centres, of which this rank holds its shard.

    Gradients. Each rank calls `(loss.sum() / G).backward()` on its own B losses, G being the
    batch over all ranks. Then `weight.grad` is exactly this shard's part of the gradient of the
    whole batch's mean loss: it must not be reduced over ranks or divided again. The gradient of
    `embedding` is that of the same global mean, so a replicated backbone needs the SUM of its
    ranks' gradients, which is what `dist.parallel.wrap_ddp` makes.

    Precision. Products run in autocast's type where autocast is on (with float32 results on
    CUDA), everything else in the weight's: float32, or float64 after `.double()`.

    Args:
        num_classes: over all ranks.
        embedding_size: D.
        mesh: the ranks that share the centres; this process alone when None.
        seed: of the initial centres, which do not depend on the world size, and of the sampling.
    """

    def __init__(
        self,
        config: HeadConfig,
        num_classes: int,
        embedding_size: int,
        mesh: Mesh | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        mesh = mesh or Mesh.single()
        self.config = config
        self.num_classes, self.embedding_size = num_classes, embedding_size
        self.mesh = mesh
        self.start, self.stop = shard_range(num_classes, mesh.rank, mesh.world_size)
        centres = config.num_centres
        initial = initial_centres(self.start, self.stop, centres * embedding_size, seed)
        if centres > 1:
            initial = initial.view(-1, centres, embedding_size)
        self.weight = nn.Parameter(initial.to(mesh.device))  # (C, D) or (C, K, D)
        self.votes: Votes | None = None
        if centres > 1:
            self.votes = Votes(self.stop - self.start, centres).to(mesh.device)
        self.norms = NormStatistics().to(mesh.device) if config.margin == "adaface" else None
        self._seed = seed
        self._step: int | None = None
        self._frozen = False

    def extra_repr(self) -> str:
        """Sizes, for people."""
        return f"num_classes={self.num_classes}, own={self.stop - self.start}, {self.config}"

    def begin_step(self, step: int) -> None:
        """Set the training step, of which the sampled negatives are a function."""
        self._step = step

    @contextlib.contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Running norms and sub-centres' votes stay as they are in passes inside."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

    def tensors(self) -> Mapping[str, Tensor | ShardedRows]:
        """What a checkpoint keeps, by name; filled in place when one is read."""
        found: dict[str, Tensor | ShardedRows] = {}
        found["weight"] = ShardedRows(self.weight, self.num_classes)
        if self.votes is not None:
            found["votes"] = ShardedRows(self.votes.count, self.num_classes)
        if self.norms is not None:
            found |= {f"norm_{name}": value for name, value in self.norms.named_buffers()}
        return found

    def forward(
        self,
        embedding: Tensor,
        label: Tensor,
        margin: Tensor | None = None,
        extra_label: Tensor | None = None,
    ) -> HeadOutput:
        """Per-sample margin softmax loss; a collective call with equal B on every rank.

        Args:
            embedding: (B, D), not normalised.
            label: (B,) int64; -1 gives loss 0 and no gradient, whatever the other arguments.
            margin: (B,) in place of `config.base_margin`: radians for the ArcFaces, units of
                cosine for CosFace, AdaFace and `combined` (whose angular margins stay).
                Differentiable.
            extra_label: (B, K) int64 further labels of the same samples, e.g. pseudo-labels, -1
                for none; their losses stand under the same margin.

        Raises:
            DataError: a label outside [-1, num_classes); checked for labels on the CPU only.
        """
        target = label[:, None]
        if extra_label is not None:
            extra_label = torch.where(target >= 0, extra_label, -1)
            target = torch.cat([target, extra_label], dim=1)  # (B, T)
        self._check_labels(target)
        with torch.autocast(embedding.device.type, enabled=False):
            unit_embedding = F.normalize(embedding.to(self.weight.dtype), dim=1)
        cosine, rest = self._cosines(unit_embedding, target)  # (B, T), (B,)
        others = self._filtered(cosine) * self.config.scale
        negatives = _negative_logsumexp(rest, others, target)  # (B, T)
        logit = self.config.scale * self.with_margin(cosine, margin, embedding, label)  # (B, T)
        loss = torch.where(target >= 0, -F.logsigmoid(logit - negatives), 0.0)  # (B, T)

        probability = torch.exp(-loss[:, 0].detach())
        plain = torch.sigmoid(self.config.scale * cosine.detach() - negatives.detach())  # (B, T)
        return HeadOutput(
            loss=loss[:, 0],
            extra_loss=loss[:, 1:],
            target_cosine=cosine[:, 0].detach(),
            dominant_cosine=self._dominant(unit_embedding, label, cosine[:, 0].detach()),
            target_probability=torch.where(label >= 0, probability, 0.0),
            plain_probability=torch.where(target >= 0, plain, 0.0),
            negative_logsumexp=negatives[:, 0].detach(),
        )

    @torch.no_grad()
    def nearest(self, embedding: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The classes nearest to each embedding: cosine (B, count) falling, label (B, count).

        A collective call with equal B on every rank. Where there are fewer than `count` classes,
        the rest has cosine -2 and label -1.

        Args:
            embedding: (B, D), not normalised.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            unit = F.normalize(embedding.to(self.weight.dtype), dim=1)
            cosine, row = nearest_rows(
                all_gather_no_grad(unit, self.mesh),
                self.weight,
                count,
                self.config.chunk_size,
                self._gemm_dtype(),
            )  # (G, count)
        label = torch.where(row >= 0, row + self.start, -1)
        if self.mesh.world_size > 1:
            num_samples = len(cosine)
            of_ranks = (self.mesh.world_size, num_samples, count)
            cosine = all_gather_no_grad(cosine, self.mesh).view(of_ranks).transpose(0, 1)
            label = all_gather_no_grad(label, self.mesh).view(of_ranks).transpose(0, 1)
            own = own_samples(num_samples, self.mesh)
            cosine, place = largest(cosine[own].flatten(1), count)
            label = label[own].flatten(1).gather(1, place)
        return cosine, label

    def _cosines(self, unit_embedding: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        gathered = all_gather_rows(unit_embedding, self.mesh)  # (G, D)
        target = all_gather_no_grad(target, self.mesh)  # (G, T)
        here = (target >= self.start) & (target < self.stop)
        local_target = torch.where(here, target - self.start, -1)
        sampled = None
        if self.config.sample_rate < 1:
            assert self._step is not None, "call begin_step(step) before each step"
            generator = torch_generator(
                self._seed, "negatives", self._step, self.mesh.rank, device=target.device
            )
            sampled = sample_classes(
                local_target, self.stop - self.start, self.config.sample_rate, generator
            )
            local_target = position_in_sample(local_target, sampled)
        return sharded_cosines(
            gathered,
            self.weight,
            local_target,
            scale=self.config.scale,
            mesh=self.mesh,
            filter_above=self.config.filter_above,
            sampled=sampled,
            chunk_size=self.config.chunk_size,
            gemm_dtype=self._gemm_dtype(),
        )

    def _filtered(self, cosine: Tensor) -> Tensor:
        """Cosines of further targets as negatives of one another."""
        limit = self.config.filter_above
        return cosine if limit is None else torch.where(cosine > limit, 0.0, cosine)

    @torch.no_grad()
    def _dominant(self, unit_embedding: Tensor, label: Tensor, cosine: Tensor) -> Tensor:
        if self.votes is None:
            return cosine
        label = all_gather_no_grad(label, self.mesh)  # (G,)
        row = torch.where((label >= self.start) & (label < self.stop), label - self.start, -1)
        unit = all_gather_no_grad(unit_embedding, self.mesh)
        found = self.votes.dominant_cosine(unit, self.weight, row, learn=not self._frozen)
        return all_reduce_sum(found, self.mesh)[own_samples(len(label), self.mesh)]

    def _quality(self, embedding: Tensor, label: Tensor) -> Tensor:
        """(B,) of AdaFace."""
        assert self.norms is not None
        return self.norms.quality(
            embedding,
            label >= 0,
            self.mesh,
            concentration=self.config.value_of("norm_concentration"),
            memory=self.config.value_of("norm_memory"),
            learn=not self._frozen,
        )

    def with_margin(
        self, cosine: Tensor, margin: Tensor | None, embedding: Tensor, label: Tensor
    ) -> Tensor:
        """Cosines (B, T) to targets as they stand in the logits, before the scale.

        Args:
            cosine: (B, T).
            margin: (B,), see `forward`.
            embedding: (B, D), of whose norm AdaFace's margin is made.
            label: (B,); where it is -1, the norm does not count.
        """
        config = self.config
        value = config.base_margin if margin is None else margin.to(cosine.dtype)[:, None]
        if config.margin == "cosface":
            return margins.cosface(cosine, value)
        if config.margin == "arcface":
            return margins.arcface(cosine, value)
        if config.margin == "arcface_straight_through":
            return margins.arcface_straight_through(cosine, value)
        if config.margin == "adaface":
            return margins.adaface(cosine, value, self._quality(embedding, label)[:, None])
        factor, angle = config.value_of("angular_factor"), config.value_of("angular_margin")
        return margins.combined(cosine, factor, angle, value)

    def _gemm_dtype(self) -> torch.dtype:
        device_type = self.weight.device.type
        if self.weight.dtype == torch.float32 and torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return self.weight.dtype

    def _check_labels(self, target: Tensor) -> None:
        if target.device.type != "cpu" or target.numel() == 0:
            return
        low, high = (int(bound) for bound in target.aminmax())
        if low < -1 or high >= self.num_classes:
            raise DataError(
                f"labels must lie in [-1, {self.num_classes}), got {low} to {high}; "
                "the head was built for other data"
            )


def _negative_logsumexp(rest: Tensor, logit: Tensor, target: Tensor) -> Tensor:
    """(B, T) log-sum-exp over all classes but target t: the rest, and the other targets once."""
    num_targets = target.shape[1]
    if num_targets == 1:
        return rest[:, None]
    same = target[:, :, None] == target[:, None, :]  # (B, T, T)
    order = torch.ones(num_targets, num_targets, dtype=torch.bool, device=target.device)
    repeated = (same & order.tril(-1)).any(2)  # (B, T): an earlier target has this label
    counts = ((target >= 0) & ~repeated)[:, None, :] & ~same  # (B, t, u)
    terms = torch.where(counts, logit[:, None, :], NO_CLASS)  # (B, T, T)
    rest = rest[:, None, None].expand(-1, num_targets, 1)
    return torch.cat([rest, terms], dim=2).logsumexp(2)
