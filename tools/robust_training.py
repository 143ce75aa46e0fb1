"""Plain training, SuperLoss, NAL and L2B in one loop, on any network of `robust_networks`.

Each method is a module: (network, batch) -> the batch's loss, and numbers of each sample that the
loop keeps of every epoch. `weight` is SuperLoss's sigma, NAL's gate, L2B's alpha.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from robust_networks import Classifier, Regressor
from robust_tasks import Task
from torch import Tensor, nn
from torch.func import functional_call

from facetrain.core.rng import torch_generator
from facetrain.robust.l2b import Parameters, directional_losses, normalise
from facetrain.robust.nal import (
    AttentionBranch,
    equilibrium_attention,
    noise_attention_loss,
    target_weight,
)
from facetrain.robust.sparse_targets import SparseTargets
from facetrain.robust.superloss import Tau, TauKind, confidence, loss_sum_and_count, scaled_lambda


class Batch(NamedTuple):
    """B samples of epoch `epoch`; `sample` says which of all N they are."""

    x: Tensor
    label: Tensor
    sample: Tensor
    epoch: int


class Weighed(NamedTuple):
    """The loss to train on, and by name the numbers of each sample, (B,) each."""

    loss: Tensor
    seen: dict[str, Tensor]


class Plain(nn.Module):
    """The mean loss."""

    def forward(self, network: Classifier | Regressor, batch: Batch) -> Weighed:
        """See above."""
        loss = network(batch.x, batch.label[:, None])[:, 0]  # (B,)
        return Weighed(loss.mean(), {})


class SuperLoss(nn.Module):
    """The mean of sigma* times the loss; sigma* comes from the loss free of margin.

    Args:
        lam: lambda.
        tau: kind of threshold.
        num_classes: of `log_classes`.
        scaled: lambda in units of the mean loss (`scaled_lambda`), for a margin head.
    """

    def __init__(
        self,
        lam: float,
        tau: TauKind = "exponential",
        num_classes: int | None = None,
        *,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.lam, self.scaled = lam, scaled
        self.tau = Tau(tau, num_classes=num_classes)

    def forward(self, network: Classifier | Regressor, batch: Batch) -> Weighed:
        """See above."""
        embedding, label = network.embed(batch.x), batch.label[:, None]
        loss = network.losses(embedding, label)[:, 0]  # (B,)
        judged = network.judged(embedding.detach(), label)[:, 0].detach()
        tau = self.tau.update(*loss_sum_and_count(judged))
        lam = scaled_lambda(self.lam, tau) if self.scaled else self.lam
        weight = confidence(judged, tau, lam)
        return Weighed((weight * loss).mean(), {"weight": weight})


@dataclass(frozen=True)
class Estimation:
    """Estimated targets of NAL: from epoch `start` on, in every `every`-th epoch."""

    folder: Path
    start: int
    every: int = 1
    memory: float = 0.9
    num_targets: int = 10


class NoiseAttention(nn.Module):
    """NAL in two parts: the gate times the network's own loss, and attention's loss.

    Args:
        boost: lambda.
        embedding_size: D, for the branch.
        warm_up: epochs of plain training.
        label: (N,) as given, to begin the targets with.
        first_logit: of attention; 4 opens all gates where the warm-up ends, as a margin head
            needs. The paper's is 0.
        detached: the branch's loss does not reach the backbone, as in facetrain's own training.
        equilibrium: attention is where the branch would come to rest, and there is no branch.
        estimation: without it the given label is the target to the end.
    """

    def __init__(
        self,
        boost: float,
        embedding_size: int,
        warm_up: int,
        label: Tensor,
        *,
        first_logit: float = 0.0,
        detached: bool = False,
        equilibrium: bool = False,
        estimation: Estimation | None = None,
    ) -> None:
        super().__init__()
        self.boost, self.warm_up, self.estimation = boost, warm_up, estimation
        self.detached, self.equilibrium = detached, equilibrium
        self.branch = AttentionBranch(embedding_size)
        nn.init.constant_(self.branch.linear.bias, first_logit)
        self.targets: SparseTargets | None = None
        if estimation is not None:
            folder, num_targets = estimation.folder, estimation.num_targets
            self.targets = SparseTargets(
                folder, label, num_targets=num_targets, probability_type=torch.float32
            )

    def forward(self, network: Classifier, batch: Batch) -> Weighed:
        """See above."""
        embedding = network.embed(batch.x)  # (B, D)
        everything = network.logits(embedding.detach()).softmax(1).detach()  # (B, C)
        label, target = batch.label[:, None], torch.ones_like(everything[:, :1])  # (B, 1)
        if self.targets is not None:
            assert self.estimation is not None
            if batch.epoch >= self.estimation.start:
                label, target = self.targets.read(batch.sample)  # (B, K)
                label, target = label.to(batch.x.device), target.to(batch.x.device)
                if (batch.epoch + 1) % self.estimation.every == 0:
                    self._estimate(batch.sample, label, everything)
        place = label.clamp_min(0)
        losses = network.losses(embedding, place)  # (B, K)
        probability = everything.gather(1, place)
        if self.equilibrium:
            attention = equilibrium_attention(probability, target, self.boost)  # (B,)
            attention = attention.clamp_max(1 - 1e-6)
        else:
            attention = self.branch(embedding.detach() if self.detached else embedding)  # (B,)
        weight = target_weight(probability, target, attention).detach()  # (B, K)
        seen = {"weight": weight[:, 0], "tau": attention.detach()}
        if batch.epoch < self.warm_up:
            return Weighed(losses[:, 0].mean(), seen)
        bought = noise_attention_loss(probability, target, attention, self.boost)  # (B,)
        loss = (weight * losses).sum(1) + bought
        return Weighed(loss.mean(), seen)

    def estimated_label(self, sample: Tensor) -> Tensor:
        """(B,) the most probable target of each sample."""
        assert self.targets is not None
        label, target = self.targets.read(sample)
        return label.gather(1, target.argmax(1, keepdim=True))[:, 0]

    def _estimate(self, sample: Tensor, label: Tensor, everything: Tensor) -> None:
        """Let the present probabilities into the targets."""
        assert self.targets is not None
        assert self.estimation is not None
        count = min(self.estimation.num_targets, everything.shape[1])
        best = everything.topk(count).indices
        candidate = torch.cat([label, best], dim=1)
        probability = everything.gather(1, candidate.clamp_min(0))
        self.targets.update(sample, candidate, probability, memory=self.estimation.memory)


class Bootstrap(nn.Module):
    """L2B with clamp; its weights come from the trusted images, its pseudo-labels from itself.

    Recorded are alpha (`weight`) and `beta` times B, so that 1 is what plain training gives, and
    alpha before `normalise` (`raw`).

    Args:
        trusted_x: (M, ...).
        trusted_label: (M,).
        meta_batch_size: of the trusted ones, drawn anew at every step.
        warm_up: epochs of plain training.
        seed: of those draws.
    """

    def __init__(
        self,
        trusted_x: Tensor,
        trusted_label: Tensor,
        meta_batch_size: int,
        warm_up: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.trusted_x, self.trusted_label = trusted_x, trusted_label
        self.meta_batch_size, self.warm_up = meta_batch_size, warm_up
        self._generator = torch_generator(seed, "trusted")

    def forward(self, network: Classifier, batch: Batch) -> Weighed:
        """See above."""
        embedding = network.embed(batch.x)
        pseudo = network.logits(embedding.detach()).argmax(1)
        label = torch.stack([batch.label, pseudo], dim=1)  # (B, 2)
        losses = network.losses(embedding, label)  # (B, 2)
        if batch.epoch < self.warm_up:
            return Weighed(losses[:, 0].mean(), {})
        drawn = torch.randperm(len(self.trusted_x), generator=self._generator)
        rows = drawn[: self.meta_batch_size].to(batch.x.device)
        trusted_x, trusted_label = self.trusted_x[rows], self.trusted_label[rows][:, None]

        def at(parameters: Parameters, x: Tensor, targets: Tensor) -> Tensor:
            # Batch normalisation's statistics are moved on a copy.
            buffers = {name: value.clone() for name, value in network.named_buffers()}
            answer: Tensor = functional_call(network, {**parameters, **buffers}, (x, targets))
            return answer

        raw = directional_losses(
            lambda parameters: at(parameters, batch.x, label),
            lambda parameters: at(parameters, trusted_x, trusted_label).mean(),
            dict(network.named_parameters()),
        )  # (B, 2)
        alpha, beta = normalise(raw[:, 0], raw[:, 1], "clamp")
        loss = (alpha * losses[:, 0] + beta * losses[:, 1]).sum()
        seen = {"weight": alpha * len(alpha), "beta": beta * len(beta), "raw": raw[:, 0]}
        return Weighed(loss, seen)


@dataclass(frozen=True)
class Schedule:
    """Length and steps of a training; the learning rate falls by a cosine in every cycle."""

    epochs: int
    batch_size: int
    learning_rate: float
    lowest_learning_rate: float = 0.0
    weight_decay: float = 0.0
    cycle: int | None = None
    """Epochs; None for one cycle over all."""
    clip_norm: float | None = None
    optimizer: str = "sgd"

    def rate_at(self, progress: float) -> float:
        """Learning rate after `progress` epochs."""
        cycle = self.cycle or self.epochs
        part = (progress % cycle) / cycle
        span = self.learning_rate - self.lowest_learning_rate
        return self.lowest_learning_rate + span * (1 + math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class Record:
    """What a training leaves."""

    seen: dict[str, NDArray[np.float32]]
    """(E, N) each; NaN in epochs without it."""
    test_score: NDArray[np.float64]
    """(E,)"""
    validation_score: float


def train(
    network: Classifier | Regressor,
    method: nn.Module,
    task: Task,
    schedule: Schedule,
    seed: int,
    *,
    augment: Callable[[Tensor], Tensor] | None = None,
    validate: dict[str, Any] | None = None,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Record:
    """Train `network` in place.

    Args:
        network: moved to the task's device.
        method: one of the above.
        task: its validation images are scored once, at the end, by `network.score(**validate)`.
        schedule: see there.
        seed: of the samples' order.
        augment: of a batch of images.
        validate: further arguments of that score.
        watch: wraps the epochs, for progress.
    """
    device = task.x.device
    network.to(device)
    method.to(device)
    parameters = [*network.parameters(), *method.parameters()]
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adam":
        optimizer = torch.optim.AdamW(parameters, weight_decay=schedule.weight_decay)
    else:
        optimizer = torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=schedule.weight_decay)
    num_batches = math.ceil(len(task.x) / schedule.batch_size)
    seen: dict[str, Tensor] = {}
    scores = []
    for epoch in watch(range(schedule.epochs)):
        network.train()
        order = torch.randperm(len(task.x), generator=torch_generator(seed, "order", epoch))
        for step, sample in enumerate(order.to(device).tensor_split(num_batches)):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_at(epoch + step / num_batches)
            x = task.x[sample]
            batch = Batch(x if augment is None else augment(x), task.label[sample], sample, epoch)
            weighed: Weighed = method(network, batch)
            optimizer.zero_grad()
            torch.autograd.backward(weighed.loss)
            if schedule.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
            optimizer.step()
            for name, value in weighed.seen.items():
                if name not in seen:
                    seen[name] = torch.full((schedule.epochs, len(task.x)), math.nan, device=device)
                seen[name][epoch, sample] = value.float()
        network.eval()
        scores.append(network.score(task.test_x, task.test_label))
    validation = network.score(task.validation_x, task.validation_label, **(validate or {}))
    arrays = {name: value.cpu().numpy() for name, value in seen.items()}
    return Record(arrays, np.array(scores), validation)
