"""Margins: pure functions of the target's cosine, before the scale.

Each takes the cosine between an embedding and its own class centre and returns the smaller value
that stands in the target's logit. A margin is a number or one value per sample, and every
function is differentiable in the cosine and in the margins.
"""

import math

import torch
from torch import Tensor

Margin = float | Tensor

_LEAST_SINE_SQUARED = 1e-10
_LARGEST_COSINE = 1.0 - 1e-7
_ADAFACE_EDGE = 1e-3


def cosface(cosine: Tensor, margin: Margin) -> Tensor:
    """Cosine minus margin (CosFace, arXiv:1801.09414, Eq. 4).

    Args:
        cosine: (B,) target cosines.
        margin: in units of cosine.
    """
    return cosine - margin


def arcface(cosine: Tensor, margin: Margin) -> Tensor:
    """cos(theta + margin), with its exact gradient (ArcFace, arXiv:1801.07698, Eq. 3).

    Where theta + margin > pi the cosine would rise again; there it is cosine - margin*sin(margin),
    which keeps falling with theta (the authors' own continuation, left out of arcface_torch).
    d/dcosine = sin(theta + margin) / sin(theta) is unbounded at cosine = 1: the sine is held at
    1e-5 or more, and where it is held it has no gradient, so d/dcosine = cos(margin) there.

    Args:
        cosine: (B,) target cosines; rounding may carry them past 1.
        margin: radians, 0 to pi.
    """
    cos_margin, sin_margin = _cos_sin(margin, cosine)
    sine = (1.0 - cosine * cosine).clamp_min(_LEAST_SINE_SQUARED).sqrt()
    inside = cosine * cos_margin - sine * sin_margin
    beyond = cosine - margin * sin_margin
    return torch.where(cosine > -cos_margin, inside, beyond)


def arcface_straight_through(cosine: Tensor, margin: Margin) -> Tensor:
    """cos(theta + margin) whose gradient in the cosine is taken to be 1.

    What published arcface_torch recipes train with: no continuation beyond pi, and a gradient
    that is 1.7 times too small at 30 degrees and 20 times too large at 150.

    Args:
        cosine: (B,) target cosines.
        margin: radians; its own gradient is exact.
    """
    angle = cosine.detach().clamp(-1.0, 1.0).acos()
    return torch.cos(angle + margin) + (cosine - cosine.detach())


def combined(
    cosine: Tensor, angular_factor: Margin, angular_margin: Margin, cosine_margin: Margin
) -> Tensor:
    """cos(m1 * theta + m2) - m3 with all three in force (arXiv:1801.07698, Eq. 4).

    Where a = m1 * theta + m2 passes pi, cos(a) is continued as (-1)^k cos(a) - 2k with
    k = floor(a / pi), which is continuous and keeps falling (SphereFace, arXiv:1704.08063,
    Eq. 7). The cosine is clamped to 1 - 1e-7 in size, with no gradient past that.

    Args:
        cosine: (B,) target cosines.
        angular_factor: m1, at least 1.
        angular_margin: m2, radians.
        cosine_margin: m3, in units of cosine.
    """
    theta = cosine.clamp(-_LARGEST_COSINE, _LARGEST_COSINE).acos()
    angle = angular_factor * theta + angular_margin
    turns = torch.floor(angle.detach() / math.pi)
    sign = 1.0 - 2.0 * torch.remainder(turns, 2.0)
    return sign * torch.cos(angle) - 2.0 * turns - cosine_margin


def adaface(cosine: Tensor, margin: Margin, quality: Tensor) -> Tensor:
    """cos(theta - margin q) - margin (1 + q), q from the norm (AdaFace, arXiv:2204.00964, Eq. 13).

    A clear image (q = 1) has a CosFace-like margin that hard samples feel, a poor one (q = -1) an
    ArcFace-like one that they do not. As in the authors' code the cosine is held within 1 - 1e-3
    and the angle within [1e-3, pi - 1e-3]; held, it has no gradient.

    Args:
        cosine: (B,) target cosines.
        margin: m, radians in the first place and units of cosine in the second.
        quality: (B,) q in [-1, 1], see `norm_statistics`.
    """
    limit = 1.0 - _ADAFACE_EDGE
    theta = cosine.clamp(-limit, limit).acos() - margin * quality
    return theta.clamp(_ADAFACE_EDGE, math.pi - _ADAFACE_EDGE).cos() - margin * (1.0 + quality)


def _cos_sin(margin: Margin, like: Tensor) -> tuple[Tensor, Tensor]:
    angle = margin if isinstance(margin, Tensor) else like.new_full((), margin)
    return angle.cos(), angle.sin()
