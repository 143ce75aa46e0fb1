"""MvCoM's margin residual in closed form: how a sample's margin would lower the variation losses.

Liu et al.: Learning to Learn across Diverse Data Biases in Deep Face Recognition, CVPR 2022,
supplement, Eqs. 12-13: after a virtual step with margins m + r the variation losses of a meta
batch are differentiated in r, which written down needs second derivatives. But a margin that is
subtracted from the cosine only scales a sample's gradient,

    d(grad L_j)/dr_j = s p_j grad L_j        (p_j the label's probability under the margin)

so -d(sum L_var)/dr_j = eta s p_j <grad L_var(Omega~), grad L_j(Omega)>, exactly. And as the loss
of a sample depends on the backbone through its own embedding e_j only,

    <v, grad L_j> = <dL_j/de_j, the derivative of e_j along v>,

two forward passes without gradients and without the classifier. A sample whose own gradient
also lowers the variation losses gets a larger margin; one that the classifier thinks
impossible (p_j near 0) gets none.
"""

from typing import Literal

import torch
from torch import Tensor

from facetrain.dist.collectives import all_reduce_max, all_reduce_sum
from facetrain.dist.mesh import Mesh

Normalisation = Literal["max", "deviation", "none"]

_LEAST = 1e-30


def benefit(
    target_probability: Tensor, embedding_gradient: Tensor, embedding_change: Tensor, scale: float
) -> Tensor:
    """The product s p_j <grad L_var, grad L_j>, (B,): Eq. 13 without the factor tau eta.

    Args:
        target_probability: (B,) under the margin.
        embedding_gradient: (B, D) dL_j/de_j.
        embedding_change: (B, D) derivative of e_j along the gradient of the variation losses.
        scale: s.
    """
    return scale * target_probability * (embedding_gradient * embedding_change).sum(1)


def residual_step(
    value: Tensor, how: Normalisation, size: float, present: Tensor, mesh: Mesh
) -> Tensor:
    """What is added to the residuals, (B,), from their `benefit`; a collective call.

    max: size * value / max |value| over the batch of all ranks. deviation: size * value / root
    mean square, which no single sample rules. none: size * value, size being tau eta.

    Args:
        value: (B,).
        how: see above.
        size: in units of cosine, save for `none`.
        present: (B,) bool, False for padding.
    """
    value = torch.where(present, value, 0.0)
    if how == "none":
        return size * value
    if how == "max":
        largest = all_reduce_max(value.abs().amax(0, keepdim=True), mesh)
        return size * value / largest.clamp_min(_LEAST)
    sums = torch.stack([value.square().sum(), present.to(value.dtype).sum()])
    square, count = all_reduce_sum(sums, mesh)
    deviation: Tensor = (square / count.clamp_min(1)).sqrt()
    return size * value / deviation.clamp_min(_LEAST)
