"""SuperLoss: weigh each sample by how its loss compares with a threshold. Any per-sample loss.

Castells, Weinzaepfel, Revaud: SuperLoss, a generic loss for robust curriculum learning, NeurIPS
2020; equations are those of its supplement. Use:

    tau = state.update(*loss_sum_and_count(loss))   # over all ranks: all-reduce the two first
    weight = confidence(loss, tau, lam)             # (weight * loss).mean() is trained
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from facetrain.core.errors import ConfigError
from facetrain.robust.lambert_w import lambert_w

TauKind = Literal["log_classes", "average", "exponential"]

REFERENCE_LOSS = math.log(10)
"""The loss for which the paper's lambdas are meant: CIFAR-10's cross-entropy at the start."""


def confidence(loss: Tensor, tau: Tensor | float, lam: Tensor | float) -> Tensor:
    """sigma* = exp(-W0(max(-2/e, beta) / 2)), beta = (loss - tau) / lam (Eq. 10); no gradient.

    The weight in (0, e] of each sample: 1 at loss = tau, e where beta <= -2/e. To train,
    multiply the loss by it: d SL*/d loss is exactly sigma*. That is the envelope argument: SL* is
    SL(loss, sigma) at a sigma where d SL/d sigma = 0, so how sigma moves with the loss does not
    matter; and where sigma is held at e it does not move at all. Detaching the loss inside sigma*
    therefore drops nothing. (tau is a constant by definition.)

    The published code has a table with sigma >= 0.0093 in place of W0; here there is no floor. A
    NaN loss has a NaN confidence, an infinite one 0.

    Args:
        loss: any shape, of a classifier, a regression, a detector; any sign.
        tau: the loss of a sample that is neither easy nor hard.
        lam: lambda > 0, in units of the loss; large makes all weights 1.
    """
    return torch.exp(_log_confidence(loss, tau, lam))


def superloss(loss: Tensor, tau: Tensor | float, lam: Tensor | float) -> Tensor:
    """SL* = (loss - tau) sigma* + lam (log sigma*)^2, the shape of `loss` (Eqs. 6 and 10).

    Its gradient is sigma*, as that of `confidence(loss, tau, lam) * loss`; the value has the
    constants that training does not need. For large lam it is (loss - tau) - (loss - tau)^2 /
    (4 lam) + ..., so the input loss itself, save for tau (Lemma 1). Eq. 12 of the supplement has
    that second term with a plus: it lets sigma* reach 1 before the regulariser reaches 0.

    Args:
        loss: any shape.
        tau: a constant, even if it carries a gradient.
    """
    log_confidence = _log_confidence(loss, tau, lam)
    threshold = tau.detach() if isinstance(tau, Tensor) else tau
    return (loss - threshold) * log_confidence.exp() + lam * log_confidence.square()


def scaled_lambda(lam: float, mean_loss: Tensor) -> Tensor:
    """Lambda for a loss of any scale, lam * mean_loss / ln 10, (), detached.

    By Lemma 2 SL* with gamma lam of gamma loss is gamma SL*, if tau grows with the loss. A margin
    softmax begins at a loss of 30 to 40 where cross-entropy has 11, so a lambda taken from a
    paper weighs far too sharply. With lambda tied to the mean loss the weights depend on
    loss / mean loss alone, whatever the scale. `mean_loss` may be tau itself (average,
    exponential), for a loss that is positive. Ours, not the paper's: as the loss falls, so does
    lambda.

    Args:
        lam: for a loss whose mean is `REFERENCE_LOSS`.
        mean_loss: () positive.
    """
    least = torch.finfo(mean_loss.dtype).tiny
    return (lam / REFERENCE_LOSS * mean_loss.detach()).clamp_min(least)


def loss_sum_and_count(loss: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(sum, number) of the finite losses, two float64 scalars; detached, no host sync.

    Add both up over the ranks before `Tau.update`, so that every rank has the same tau.

    Args:
        loss: (B,).
        counts: (B,) bool, False leaves a sample out, e.g. padding (label -1); all count without.
    """
    loss = loss.detach().double()
    finite = loss.isfinite() if counts is None else loss.isfinite() & counts
    return torch.where(finite, loss, 0.0).sum(), finite.sum().double()


class Tau(nn.Module):
    """The threshold tau, as state that a checkpoint carries (`mean`, `count`).

    log_classes: log C, the loss of a classifier that knows nothing. Under a margin softmax
        every loss lies above it at the start, so every sample would be hard.
    average: the mean of all losses so far.
    exponential: mean <- smoothing * mean + (1 - smoothing) * batch mean, begun at the first
        batch's mean. The paper names no value; 0.9 is recalled from its code.

    The threshold of a batch is taken before the batch enters, save that the very first batch's is
    its own mean (as in the published code). Nothing waits for the device.

    Args:
        num_classes: C over all ranks, for log_classes and only there.
        smoothing: 0 to 1, of `exponential`.

    Raises:
        ConfigError: num_classes missing or idle, smoothing outside [0, 1).
    """

    mean: Tensor
    count: Tensor

    def __init__(
        self, kind: TauKind, *, num_classes: int | None = None, smoothing: float = 0.9
    ) -> None:
        super().__init__()
        if (kind == "log_classes") != (num_classes is not None):
            raise ConfigError(
                f"tau {kind!r} with num_classes={num_classes}: "
                "log_classes needs num_classes, average and exponential take none"
            )
        if not 0 <= smoothing < 1:
            raise ConfigError(f"tau's smoothing must lie in [0, 1), got {smoothing}")
        self.kind = kind
        self.smoothing = smoothing
        start = 0.0 if num_classes is None else math.log(num_classes)
        self.register_buffer("mean", torch.tensor(start, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0.0, dtype=torch.float64))

    @torch.no_grad()
    def update(self, loss_sum: Tensor, count: Tensor) -> Tensor:
        """The threshold for the batch that `loss_sum` and `count` tell of, (); then it enters.

        Args:
            loss_sum: () of the batch's finite losses over all ranks.
            count: () how many; at 0 nothing changes.
        """
        if self.kind == "log_classes":
            return self.mean.clone()
        batch_mean = loss_sum / count.clamp_min(1)
        first = self.count == 0
        threshold = torch.where(first, batch_mean, self.mean)
        seen = self.count + count
        if self.kind == "average":
            rate = count / seen.clamp_min(1)
        else:
            rate = (count > 0).double() * (1 - self.smoothing)
        # At the first batch threshold is batch_mean, and the mean begins there.
        self.mean.copy_(threshold + rate * (batch_mean - threshold))
        self.count.copy_(seen)
        return threshold


@torch.no_grad()
def _log_confidence(loss: Tensor, tau: Tensor | float, lam: Tensor | float) -> Tensor:
    """Log sigma*, the shape and type of `loss`."""
    beta = (loss - tau) / lam
    return -lambert_w(0.5 * beta).to(loss.dtype)  # held at 1 where beta <= -2/e
