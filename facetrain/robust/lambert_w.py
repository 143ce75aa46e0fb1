"""The principal branch of Lambert's W function, elementwise on any device."""

import math

import torch
from torch import Tensor

_SPLIT = -0.25
"""Below it W is sought as a distance from -1; above, in relative terms."""


@torch.no_grad()
def lambert_w(x: Tensor) -> Tensor:
    """W0(x), the solution w >= -1 of w exp(w) = x, to the precision of x's type; no gradient.

    Two rounds of a third or fourth order iteration, without a loop that looks at the data, so
    nothing waits for the device. Next to the branch point x = -1/e, where w exp(w) - x cancels
    and W has infinite slope, the unknown is u = 1 + W and the equation
    u exp(u) - expm1(u) = e x + 1, whose right side is formed with 1/e in two parts. Elsewhere it
    is Fritsch's iteration on log(x / w) - w (Fritsch, Shafer, Crowley, CACM 16(2), 1973,
    algorithm 443) from the first guess of Iacono and Boyd (Adv. Comput. Math. 43, 2017), which
    keeps the relative precision of small values.

    The published SuperLoss code interpolates a table of 31 knots instead; this is exact.

    Args:
        x: any shape; types narrower than float32 are computed in float32. Below -1/e W0 is not
            real: there it is held at -1, as SuperLoss holds it (Eq. 10). NaN stays NaN.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    near = _near_branch_point(wide.clamp_max(_SPLIT))
    far = _far_from_branch_point(wide.clamp_min(_SPLIT))
    return torch.where(wide < _SPLIT, near, far).to(x.dtype)


def _near_branch_point(x: Tensor) -> Tensor:
    """W0 on (-inf, -1/4]."""
    # 1/e as a number of x's type and the rest: the first sum is exact near the branch point.
    inverse_e = torch.tensor(math.exp(-1), dtype=x.dtype).item()
    rest = math.exp(-1) - inverse_e if x.dtype == torch.float32 else -1.2428753672788363e-17
    above = math.e * ((x + inverse_e) + rest)  # e x + 1
    p = (2 * above).clamp_min(0).sqrt()
    # The series of W at the branch point (Corless et al., Adv. Comput. Math. 5, 1996, Eq. 4.22).
    u = p * (1 + p * (-1 / 3 + p * (11 / 72 + p * (-43 / 540 + p * (769 / 17280)))))
    for _ in range(2):  # Halley
        e_u_minus_1 = torch.expm1(u)
        residual = u + (u - 1) * e_u_minus_1 - above
        slope = u * (e_u_minus_1 + 1)
        step = residual / (slope - residual * (1 + u) / (2 * u))
        u = torch.where(above > 0, u - step, 0.0)
    return u - 1


def _far_from_branch_point(x: Tensor) -> Tensor:
    """W0 on [-1/4, inf]."""
    log = torch.log1p(x)
    w = log * (1 - torch.log1p(log) / (2 + log))
    for _ in range(2):  # Fritsch: fourth order
        z = torch.log(x / w) - w
        q = 2 * (1 + w) * (1 + w + 2 / 3 * z)
        w = w * (1 + z / (1 + w) * (q - z) / (q - 2 * z))
    # At 0 and at infinity x / w is 0/0 and inf/inf; W is x there.
    return torch.where((x == 0) | torch.isposinf(x), x, w)
