"""Noise attention: a learned weight tau in (0, 1) for each sample, bought with a boost term.

Lu, Bo, He: NAL, Noise Attention Learning, NeurIPS 2022; equations are those of its appendix. The
target may be dense, or the few classes that have any weight (`sparse_targets`): terms with q_k = 0
contribute nothing, neither value nor gradient.

At equilibrium (`equilibrium_attention`) a sample's gradient is scaled by min(1, boost * p_y /
(1 - p_y)): a gate that is fully open from p_y = 1 / (1 + boost) on, e.g. 0.667 for boost 0.5, 0.091
for 10, 0.0196 for 50. Training must have lifted clean samples towards it before the method
begins (warm-up), and p_y must be free of margin: with one it is about e^-33 at the start.
"""

import torch
from torch import Tensor, nn

_LEAST_ATTENTION = 1e-12
_HALVINGS = 30
"""Of an interval shorter than 1: past float32's precision."""


def noise_attention_loss(
    probability: Tensor, target: Tensor, attention: Tensor, boost: float
) -> Tensor:
    """-sum_k q_k log(tau (p_k - q_k) + q_k) - boost log tau, (B,), not reduced (Eq. 1).

    With one target of weight 1 that is -log(1 - tau (1 - p_y)) - boost log tau; give K = 1. The
    gradient in the logits is Eq. 6, d/dz_j = p_j sum_k w_k p_k - w_j p_j with w_k = tau q_k /
    (tau (p_k - q_k) + q_k); Eqs. 7 to 9 are its case of one target. The theorem takes tau for a
    constant; here, as in the authors' code, tau's gradient is exact too, so the loss also reaches
    whatever attention was computed from.

    Two parts for a margin softmax (ours): train attention on this loss with probability detached,
    and the backbone on `gate` (or `target_weight`) times its own loss; for one target that is the
    theorem's gradient with the margin's in place of cross-entropy's.

    Args:
        probability: (B, K) p of the K targets, in [0, 1].
        target: (B, K) q >= 0 of the same targets, rows summing to 1; 0 where there is none.
        attention: (B,) tau in (0, 1).
        boost: lambda > 0. The paper: 0.5 for 10 classes, 10 for CIFAR-100, 50 for Clothing1M and
            WebVision.
    """
    tau = attention[:, None]
    argument = tau * probability + (1 - tau) * target  # (B, K), without cancellation at tau = 1
    # An empty target's logarithm must not be formed: p may be 0, and 0 * -inf is NaN.
    argument = torch.where(target > 0, argument, 1.0)
    return -(target * argument.log()).sum(1) - boost * attention.log()


def gate(p_y: Tensor, attention: Tensor) -> Tensor:
    """Factor on cross-entropy's gradient, phi = p_y / (p_y - 1 + 1 / tau), (B,) (Theorem 1).

    In [0, 1], for a single target of weight 1. Detach it to use it as a sample weight.

    Args:
        p_y: (B,) probability of the label.
        attention: (B,) tau in (0, 1].
    """
    one = p_y.new_ones(len(p_y), 1)
    return target_weight(p_y[:, None], one, attention)[:, 0]


def target_weight(probability: Tensor, target: Tensor, attention: Tensor) -> Tensor:
    """Gate of each of several targets, tau q_k p_k / (tau (p_k - q_k) + q_k), (B, K).

    Eq. 6 is the gradient of sum_k target_weight_k * (-log p_k) with the weights held: estimated
    targets are cross-entropies to K labels, each behind its own gate. Detach it to use it so.

    Args:
        probability: (B, K) p of the targets.
        target: (B, K) q, 0 where there is none.
        attention: (B,) tau in (0, 1].
    """
    tau = attention[:, None]
    below = tau * probability + (1 - tau) * target
    return tau * target * probability / torch.where(below > 0, below, 1.0)


def equilibrium_attention(probability: Tensor, target: Tensor, boost: float) -> Tensor:
    """tau*, (B,): where Eq. 1 has its minimum over tau in (0, 1], p and q held.

    Derived here, not in the paper. Eq. 1 is convex in tau, and tau times its slope is
    sum_k q_k^2 / (q_k + tau (p_k - q_k)) - 1 - boost, which has one zero; 1 where that is beyond.
    For one target of weight 1 it is min(1, boost / ((1 + boost) (1 - p_y))), and `gate` is then
    min(1, boost p_y / (1 - p_y)). Where the target is what the model says (q = p), tau* is 1.

    Args:
        probability: (B, K) p of the targets.
        target: (B, K) q, rows summing to 1 (a row of zeros gives 1).
        boost: lambda > 0.
    """
    if target.shape[1] == 1:
        return (boost / ((1 + boost) * (1 - probability[:, 0]))).clamp_max(1)

    def slope(tau: Tensor) -> Tensor:
        below = tau[:, None] * probability + (1 - tau[:, None]) * target  # (B, K)
        return (target.square() / torch.where(target > 0, below, 1.0)).sum(1) - 1 - boost

    high = torch.ones_like(probability[:, 0])
    inside = slope(high) > 0
    # Of all p the zero is smallest at p = 0, where the slope is 1 / (1 - tau) - 1 - boost.
    low = high * (boost / (1 + boost))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        beyond = slope(middle) > 0
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    return torch.where(inside, (low + high) / 2, 1.0)


class AttentionBranch(nn.Module):
    """tau = sigmoid(linear(embedding)), one number a sample (the authors' code for ResNets).

    Begins with zero weights, so at tau = 1/2 for all, the same on every rank. Held in
    [1e-12, 1 - eps] of its type, float32 at least: the authors' 1 - 1e-12 is 1 in float32, where
    the loss of p_y = 0 is infinite.
    """

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """Attention of each sample, (B,), from its embedding (B, D), not normalised."""
        with torch.autocast(embedding.device.type, enabled=False):
            logit = self.linear(embedding.to(self.linear.weight.dtype))[:, 0]  # (B,)
        highest = 1 - torch.finfo(logit.dtype).eps
        return torch.sigmoid(logit).clamp(_LEAST_ATTENTION, highest)
