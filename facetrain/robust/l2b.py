"""Learning to bootstrap: two weights a sample, for its given and its pseudo-label.

Zhou et al.: L2B, Learning to Bootstrap Robust Models for Combating Label Noise, CVPR 2024;
equations are those of its supplement. A sample has the loss f_i of its label and g_i of its
pseudo-label (the model's own hard argmax, without margin); sum_i alpha_i f_i + beta_i g_i is
trained. A weight is how much a step along its loss's gradient would lower the loss of trusted
samples, the meta set, with losses f_j^v:

    alpha_i = eta lambda <grad f_i, grad sum_j f_j^v>,  beta_i the same with g_i  (Eqs. 19, 24)

Written so, no second derivative and no gradient of a single sample is needed: all 2B inner
products with one meta-gradient are one derivative of the losses along it. The authors' code
differentiates through an optimizer step with momentum and weight decay instead, and takes the mean
over the meta set; eta lambda and that factor drop out of `normalise` with clamp, but not with
sigmoid or softmax. Misprints: in Eq. 23 alpha_k g_k must read alpha_k f_k, and Eqs. 11-14 lack
cross-entropy's minus.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Normalisation = Literal["clamp", "sigmoid", "softmax"]

_SUM_GUARD = 1e-10


def normalise(
    alpha: Tensor, beta: Tensor, how: Normalisation, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Weights (alpha, beta), each (G,): not negative, all 2G together summing to 1.

    clamp: max(., 0) divided by the sum + 1e-10 (the paper's Eq. 9). All weights are 0 where no
        gradient agrees with the meta set's.
    sigmoid: divided by the sum. softmax: of the raw values / temperature (the supplement's
        Fig. 3; the authors' code, T = 10 for ISIC). Both depend on the scale of the raw values.

    Over the batch of all ranks: gather alpha and beta first. The weighted sum replaces the mean
    of the batch's losses, so the learning rate stays. alpha_i + beta_i is not 1 for each sample,
    as it is in a bootstrapping loss (section 7.1).

    Args:
        alpha: (G,) raw, of the labels.
        beta: (G,) raw, of the pseudo-labels.
        temperature: of softmax; large makes all weights equal.
    """
    assert temperature > 0, temperature
    raw = torch.stack([alpha, beta])  # (2, G)
    if how == "softmax":
        weight = (raw / temperature).flatten().softmax(0).view_as(raw)
    else:
        weight = raw.clamp_min(0) if how == "clamp" else raw.sigmoid()
        weight = weight / (weight.sum() + (_SUM_GUARD if how == "clamp" else 0))
    return weight[0], weight[1]


def step_size(direction: Parameters, distance: float) -> Tensor:
    """How far `directional_derivative` goes, distance / |direction|, (); 0 without a direction.

    Under sharding the norm must be that over all ranks' rows, the same number everywhere.
    """
    norm = torch.stack([value.square().sum() for value in direction.values()]).sum().sqrt()
    return torch.where(norm > 0, distance / norm, 0.0)


@torch.no_grad()
def directional_derivative(
    losses: Callable[[Parameters], Tensor],
    parameters: Parameters,
    direction: Parameters,
    step: Tensor,
) -> Tensor:
    """(loss_i(theta + step v) - loss_i(theta - step v)) / (2 step), in the shape of the losses.

    A central difference: off by step^2 / 6 times the third derivative along v, and by the losses'
    rounding / step. In float32, through a small network and a CosFace head of scale 64, a distance
    step * |v| of 1e-1, 1e-2, 3e-3, 1e-4 was off by 6 %, 0.07 %, 0.01 %, 0.24 %. bfloat16 and
    float16 round too coarsely: turn autocast off around it.

    Args:
        losses: parameters -> (...).
        parameters: theta, by name; not changed.
        direction: v, the same names.
        step: (); at 0 the answer is 0.
    """

    def at(signed: Tensor) -> Tensor:
        return losses(
            {name: value + signed * direction[name] for name, value in parameters.items()}
        )

    difference = at(step) - at(-step)
    return torch.where(step > 0, difference / (2 * step), 0.0)
