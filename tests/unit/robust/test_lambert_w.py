"""Lambert's W against scipy, against 50 digits at the branch point, and its own definition."""

import math

import pytest
import torch
from torch import Tensor

from facetrain.robust.lambert_w import lambert_w

BRANCH_POINT = -math.exp(-1)
TYPES = [torch.float64, torch.float32]


def wide_range(dtype: torch.dtype) -> Tensor:
    """Both signs over nearly all of the type's magnitudes, a little away from the branch point."""
    low, high = (-300, 300) if dtype == torch.float64 else (-37, 38)
    positive = torch.logspace(low, high, 1001, dtype=torch.float64)
    negative = -torch.logspace(low, math.log10(0.35), 501, dtype=torch.float64)
    middle = torch.linspace(-0.36, 20, 1001, dtype=torch.float64)
    return torch.cat([positive, negative, middle, torch.zeros(1, dtype=torch.float64)]).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_agrees_with_scipy_over_the_whole_range(dtype: torch.dtype) -> None:
    special = pytest.importorskip("scipy.special")
    x = wide_range(dtype)
    came = lambert_w(x)
    assert came.dtype == dtype
    expected = torch.from_numpy(special.lambertw(x.double().numpy()).real)
    # scipy stops at a relative change of 1e-8 in its cubic iteration: some 25 units in the last
    # place of float64. Ours is within two of its own type (below).
    rounding = max(2 * torch.finfo(dtype).eps, 64 * torch.finfo(torch.float64).eps)
    torch.testing.assert_close(came.double(), expected, rtol=rounding, atol=0)


@pytest.mark.parametrize("dtype", TYPES)
def test_two_units_in_the_last_place_up_to_the_branch_point(dtype: torch.dtype) -> None:
    """Against 50 digits: scipy itself is off by 5e-9 there."""
    mpmath = pytest.importorskip("mpmath")
    distance = torch.logspace(-16.2, -0.5, 200, dtype=torch.float64)
    x = torch.cat([BRANCH_POINT + distance, wide_range(dtype)[::20].double()]).to(dtype).unique()
    x = x[x.double() > BRANCH_POINT]  # rounding to float32 may carry it below
    assert x.double().min() - BRANCH_POINT < (1e-15 if dtype == torch.float64 else 3e-8)
    with mpmath.workdps(50):
        expected = [mpmath.lambertw(mpmath.mpf(value)).real for value in x.tolist()]
        error = [
            float(abs(mpmath.mpf(came) - value) / abs(value)) if value else float(came != 0)
            for came, value in zip(lambert_w(x).tolist(), expected, strict=True)
        ]
    assert max(error) <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [*TYPES, torch.bfloat16])
def test_special_values(dtype: torch.dtype) -> None:
    """W(0) = 0, W(e) = 1, W(inf) = inf; at and below -1/e it is held at -1."""
    x = torch.tensor([0.0, math.e, math.inf, BRANCH_POINT, -0.5, -math.inf], dtype=dtype)
    came = lambert_w(x)
    expected = torch.tensor([0.0, 1.0, math.inf, -1.0, -1.0, -1.0], dtype=dtype)
    # e and -1/e are rounded: by sqrt(2 e eps) that moves W at the branch point, in bfloat16 0.15.
    torch.testing.assert_close(came[[0, 2, 4, 5]], expected[[0, 2, 4, 5]], rtol=0, atol=0)
    eps = torch.finfo(dtype).eps
    assert came[1].item() == pytest.approx(1, abs=2 * eps)
    assert came[3].item() == pytest.approx(-1, abs=math.sqrt(2 * math.e * eps))
    assert lambert_w(torch.tensor([math.nan], dtype=dtype)).isnan().all()


def test_any_shape_and_no_gradient() -> None:
    x = torch.linspace(-0.3, 5, 24, dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    w = lambert_w(x)
    assert not w.requires_grad
    torch.testing.assert_close(w * w.exp(), x.detach(), rtol=1e-14, atol=1e-16)
    assert lambert_w(x[:, :0]).shape == (2, 0, 4)
