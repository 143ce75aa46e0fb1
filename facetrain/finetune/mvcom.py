"""MvCoM as a training method: a margin for each class and a learned residual for each sample.

Liu et al.: Learning to Learn across Diverse Data Biases in Deep Face Recognition, CVPR 2022,
supplement, sections B and C. A step has three parts: a virtual update of the backbone with the
margins as they are (Eq. 12), the residuals of the batch from the variation losses of a meta batch
after it (Eq. 13, `residual`), and the real update with them (Eq. 14), which is the trainer's.

The virtual passes normalise by the running statistics (the backbone in eval mode): they leave no
trace in them, a meta batch of rare levels is seen as the finished model will see it, and any
number of processes computes the same.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from facetrain.dist.collectives import all_gather_no_grad, all_reduce_sum
from facetrain.dist.sharded_rows import ShardedRows
from facetrain.engine.method import Method, StepBatch
from facetrain.engine.precision import autocast_dtype
from facetrain.engine.schedule import learning_rate_factor
from facetrain.finetune.meta_set import LevelBatch
from facetrain.finetune.residual import benefit, residual_step
from facetrain.finetune.settings import FinetuneStageConfig
from facetrain.finetune.variation_heads import VariationHeads, head_gradients
from facetrain.heads.margin_head import MarginHead
from facetrain.robust.l2b import Parameters, directional_derivative, step_size


class PriorMargin(Method):
    """A fixed margin for each image, and no more: MvCoM's prior alone.

    Args:
        prior: (N,) margin of each training image, in units of cosine.
        max_margin: no sample gets more, and none less than 0.
    """

    def __init__(self, head: MarginHead, prior: Tensor, max_margin: float) -> None:
        super().__init__(head)
        self.prior, self.max_margin = prior, max_margin
        self.margin = prior[:0]  # (B,) of the step under way

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """Look up the margins."""
        super().begin_step(step, batch)
        self.margin = self._prior()

    def _prior(self) -> Tensor:
        return self.prior[self.batch.index.clamp_min(0)]  # (B,)

    def loss(self, embedding: Tensor, part: slice) -> Tensor:
        """The margin loss under each sample's own margin, (b,)."""
        loss: Tensor = self.head(embedding, self.batch.label[part], self.margin[part]).loss
        self.margin_loss = loss.detach()
        return loss

    def per_sample(self) -> Mapping[str, Tensor]:
        """The margins."""
        return {"margin": self.margin}


class Mvcom(PriorMargin):
    """Prior margins plus meta-learned residuals.

    Args:
        backbone: the module itself, not its data-parallel wrapping.
        prior: (N,) margin of each training image, in units of cosine.
        heads: fitted to the frozen backbone; trained along here.
        sign: (K,) of each factor's variation loss.
        train_level: (N, K) levels of the training images, -1 unknown; of residuals of levels.
        meta_batches: start step -> meta batches from that step on.
    """

    def __init__(
        self,
        config: FinetuneStageConfig,
        head: MarginHead,
        backbone: nn.Module,
        prior: Tensor,
        *,
        heads: VariationHeads,
        sign: Tensor,
        train_level: Tensor,
        meta_batches: Callable[[int], Iterator[LevelBatch]],
        steps_per_epoch: int,
    ) -> None:
        super().__init__(head, prior, config.finetune.max_margin)
        self.settings, self.config, self.mesh = config, config.finetune.residual, head.mesh
        self.backbone, self.heads, self.sign = backbone, heads, sign
        self.meta_batches, self.steps_per_epoch = meta_batches, steps_per_epoch
        # Of autocast in the virtual passes.
        self.dtype = autocast_dtype(config.train.precision, head.mesh.device)
        self._meta: Iterator[LevelBatch] = iter(())
        kept = len(prior) if self.config.persist else 0
        self.residual_of_image = prior.new_zeros(kept)
        self.train_level = train_level  # (N, K)
        num_levels = max(heads.num_levels) if self.config.of == "level" else 0
        self.residual_of_level = prior.new_zeros(len(heads.num_levels), num_levels)  # (K, L)
        self.residual = prior[:0]  # (B,) of the step under way

    def start(self, step: int) -> None:
        """Begin the meta batches where this step has them."""
        self._meta = self.meta_batches(step)

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """Eqs. 12 and 13."""
        super().begin_step(step, batch)
        meta = next(self._meta)
        prior = self.margin
        start = self._kept_residual()
        self.margin = (prior + start).clamp(0.0, self.max_margin)
        was_training = self.backbone.training
        self.backbone.eval()
        try:
            value = self._benefit(step, meta)
        finally:
            self.backbone.train(was_training)
        size = self.config.size
        if self.config.normalisation == "none":
            size *= self._learning_rate(step)
        change = residual_step(value, self.config.normalisation, size, batch.label >= 0, self.mesh)
        if self.config.of == "level":
            self._learn_levels(change)
            start, change = self._kept_residual(), torch.zeros_like(change)
        self.margin = (prior + start + change).clamp(0.0, self.max_margin)
        self.residual = self.margin - prior
        self._keep_residual(batch.index)

    def per_sample(self) -> Mapping[str, Tensor]:
        """The margins, and the learned part of each."""
        return {"margin": self.margin, "residual": self.residual}

    def tensors(self) -> Mapping[str, Tensor | ShardedRows]:
        """The variation heads, and the residuals where they persist."""
        kept = {"residual_of_image": self.residual_of_image} if self.config.persist else {}
        if self.config.of == "level":
            kept = {"residual_of_level": self.residual_of_level}
        return {**{f"heads.{n}": p.detach() for n, p in self.heads.named_parameters()}, **kept}

    def _kept_residual(self) -> Tensor:
        index = self.batch.index
        if self.config.of == "level":
            level = self._levels()  # (B, K)
            each = self.residual_of_level.T.gather(0, level.clamp_min(0))
            return torch.where(level >= 0, each, 0.0).sum(1)
        if not self.config.persist:
            return torch.zeros_like(self.margin)
        return torch.where(index >= 0, self.residual_of_image[index.clamp_min(0)], 0.0)

    def _levels(self) -> Tensor:
        """(B, K) of the batch's images, -1 for unknown ones and for padding."""
        index = self.batch.index
        level = self.train_level[index.clamp_min(0)]
        return torch.where((self.batch.label >= 0)[:, None], level, -1)

    def _learn_levels(self, change: Tensor) -> None:
        """Move each level's residual by the mean change of its images in the batch of all ranks."""
        level = self._levels()  # (B, K)
        number = torch.arange(self.residual_of_level.shape[1], device=level.device)
        member = (level[:, :, None] == number).to(change.dtype)  # (B, K, L)
        sums = torch.stack([torch.einsum("b,bkl->kl", change, member), member.sum(0)])
        total, count = all_reduce_sum(sums, self.mesh)
        self.residual_of_level += self.config.level_rate * total / count.clamp_min(1)

    def _keep_residual(self, index: Tensor) -> None:
        if self.config.persist:
            index = all_gather_no_grad(index, self.mesh)  # (G,)
            residual = all_gather_no_grad(self.residual, self.mesh)
            self.residual_of_image[index[index >= 0]] = residual[index >= 0]

    def _benefit(self, step: int, meta: LevelBatch) -> Tensor:
        """How much a larger margin of each sample would lower the variation losses, (B,)."""
        parameters = {n: p.detach() for n, p in self.backbone.named_parameters()}
        trained = {n for n, p in self.backbone.named_parameters() if p.requires_grad}
        probability, slope, gradient = self._identity_pass(parameters, trained)
        ahead = parameters
        if self.config.pseudo_update:
            rate = self._learning_rate(step)
            moved = {n: parameters[n] - rate * gradient[n] for n in trained}
            ahead = {**parameters, **moved}  # Eq. 12
        direction = self._variation_gradient(ahead, trained, meta)
        change = self._change_along(parameters, direction)
        return benefit(probability, slope, change, self.head.config.scale)

    def _identity_pass(
        self, parameters: Parameters, trained: set[str]
    ) -> tuple[Tensor, Tensor, Parameters]:
        """p_j (B,), dL_j/de_j (B, D), and the gradient of the batch's mean loss."""
        batch, pseudo = self.batch, self.config.pseudo_update
        leaves = {n: parameters[n].requires_grad_(pseudo) for n in sorted(trained)}
        centres = {"weight": self.head.weight.detach()}
        gradient: Parameters = {}
        probabilities, slopes = [], []
        for part in self._parts(len(batch.label)):
            with torch.set_grad_enabled(pseudo):
                embedding = self._embed(parameters, batch.image[part], self.dtype)
            leaf = embedding.detach().requires_grad_()
            given = (leaf, batch.label[part], self.margin[part])
            with self.head.frozen_statistics():
                output = functional_call(self.head, centres, given)
            (slope,) = torch.autograd.grad(output.loss.sum(), leaf)
            probabilities.append(output.target_probability)
            slopes.append(slope)
            if pseudo:
                _add(gradient, leaves, embedding, slope / self.settings.train.batch_size)
        for leaf in leaves.values():
            leaf.requires_grad_(False)
        self._sum_over_ranks(gradient)
        return torch.cat(probabilities), torch.cat(slopes), gradient

    def _variation_gradient(
        self, parameters: Parameters, trained: set[str], meta: LevelBatch
    ) -> Parameters:
        """Gradient in the backbone of the variation losses, summed over the meta batch.

        The heads take a step of their own on the way; the embeddings are constants for it.
        """
        leaves = {n: parameters[n].detach().requires_grad_() for n in sorted(trained)}
        gradient: Parameters = {}
        of_heads: Parameters = {}
        for part in self._parts(len(meta.level)):
            embedding = self._embed({**parameters, **leaves}, meta.image[part], self.dtype)
            leaf = embedding.detach().requires_grad_()
            loss = self.heads(leaf, meta.level[part], self.sign).sum()
            (slope,) = torch.autograd.grad(loss, leaf)
            _add(gradient, leaves, embedding, slope)
            for name, value in head_gradients(self.heads, leaf, meta.level[part]).items():
                of_heads[name] = of_heads[name] + value if name in of_heads else value
        self._sum_over_ranks(gradient)
        self._sum_over_ranks(of_heads)
        self._train_heads(of_heads, meta)
        return gradient

    @torch.no_grad()
    def _train_heads(self, gradient: Parameters, meta: LevelBatch) -> None:
        number = (meta.level >= 0).any(1).sum()
        number = all_reduce_sum(number, self.mesh).clamp_min(1)
        for name, parameter in self.heads.named_parameters():
            parameter.sub_(self.config.head_learning_rate * gradient[name] / number)

    def _change_along(self, parameters: Parameters, direction: Parameters) -> Tensor:
        """Derivative of the batch's embeddings along `direction`, (B, D)."""
        fixed = {n: value for n, value in parameters.items() if n not in direction}
        at = {n: parameters[n] for n in direction}
        distance = self.config.distance or (0.01 if self.dtype is None else 0.1)
        step = step_size(direction, distance)
        changes = []
        for part in self._parts(len(self.batch.label)):
            image = self.batch.image[part]

            def embed(moved: Parameters, image: Tensor = image) -> Tensor:
                return self._embed({**fixed, **moved}, image, self.dtype)

            changes.append(directional_derivative(embed, at, direction, step))
        return torch.cat(changes)

    def _embed(self, parameters: Parameters, image: Tensor, dtype: torch.dtype | None) -> Tensor:
        with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
            embedding: Tensor = functional_call(self.backbone, parameters, (image,))
        return embedding

    def _learning_rate(self, step: int) -> float:
        config, epochs = self.settings, self.settings.train.epochs
        factor = learning_rate_factor(config.schedule, step, self.steps_per_epoch, epochs)
        return config.optimizer.learning_rate * factor

    def _parts(self, rows: int) -> list[slice]:
        pieces = torch.arange(rows).chunk(self.settings.train.accumulate)
        return [slice(int(piece[0]), int(piece[-1]) + 1) for piece in pieces]

    def _sum_over_ranks(self, values: Parameters) -> None:
        for value in values.values():
            all_reduce_sum(value, self.mesh)


def _add(total: Parameters, leaves: Parameters, embedding: Tensor, slope: Tensor) -> None:
    """Add the gradient of <slope, embedding> in `leaves` to `total`."""
    found = torch.autograd.grad(embedding, list(leaves.values()), slope.to(embedding.dtype))
    for name, value in zip(leaves, found, strict=True):
        total[name] = total[name] + value if name in total else value
