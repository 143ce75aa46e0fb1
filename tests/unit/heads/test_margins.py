"""Margins against worked numbers, gradients against finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from facetrain.heads import margins

DEGREE = math.pi / 180


def cosines(*degrees: float) -> Tensor:
    return torch.tensor([math.cos(d * DEGREE) for d in degrees], dtype=torch.float64)


def test_cosface_table() -> None:
    came = margins.cosface(torch.tensor([1.0, 0.5, -1.0]), 0.35)
    torch.testing.assert_close(came, torch.tensor([0.65, 0.15, -1.35]))


def test_arcface_table() -> None:
    """30 degrees of margin: 0 -> 30, 60 -> 90, 120 -> 150 degrees; 170 is past 150."""
    came = margins.arcface(cosines(0, 60, 120, 170), 30 * DEGREE)
    # cos 30 = 0.8660254, cos 90 = 0, cos 150 = -0.8660254;
    # cos 170 - (pi/6) sin 30 = -0.9848078 - 0.2617994 = -1.2466072
    expected = torch.tensor([0.8660254, 0.0, -0.8660254, -1.2466072], dtype=torch.float64)
    # The sine is held at 1e-5, which at 0 degrees costs 1e-5 * sin 30.
    torch.testing.assert_close(came, expected, rtol=0, atol=6e-6)


def test_combined_table() -> None:
    """cos(m1 theta + m2) - m3 with every one of them in force."""
    theta = 30.0
    came = margins.combined(cosines(theta, theta, theta, theta), 1.5, 15 * DEGREE, 0.1)
    # 1.5 * 30 + 15 = 60 degrees: 0.5 - 0.1
    torch.testing.assert_close(came, torch.full((4,), 0.4, dtype=torch.float64))
    alone = [
        margins.combined(cosines(theta), *three)
        for three in ((1.5, 0.0, 0.0), (1.0, 15 * DEGREE, 0.0), (1.0, 0.0, 0.1))
    ]
    # cos 45, cos 45, cos 30 - 0.1
    expected = torch.tensor([[0.7071068], [0.7071068], [0.7660254]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(alone), expected, rtol=0, atol=1e-7)


def test_combined_beyond_pi_continues_downwards() -> None:
    """2 * 120 = 240 degrees: -cos 240 - 2 = 0.5 - 2; 4 * 120 = 480, k = 2: cos 480 - 4."""
    came = [margins.combined(cosines(120), factor, 0.0, 0.0).item() for factor in (2.0, 4.0)]
    assert came == pytest.approx([-1.5, -4.5], abs=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda cosine: margins.arcface(cosine, 0.5),
        lambda cosine: margins.arcface(cosine, 1.2),
        lambda cosine: margins.combined(cosine, 1.0, 0.5, 0.2),
        lambda cosine: margins.combined(cosine, 4.0, 0.3, 0.0),
    ],
)
def test_logit_falls_with_the_angle_over_the_whole_circle(
    function: Callable[[Tensor], Tensor],
) -> None:
    value = function(torch.linspace(0, math.pi, 1001, dtype=torch.float64).cos())
    assert (value.diff() < 1e-12).all()
    # The control: the plain cosine of theta + 0.5 rises again past pi.
    plain = (torch.linspace(0, math.pi, 1001, dtype=torch.float64) + 0.5).cos()
    assert not (plain.diff() < 1e-12).all()


@pytest.mark.parametrize("name", ["cosface", "arcface", "combined"])
def test_gradients_in_cosine_and_margin(name: str) -> None:
    """Finite differences on both sides of pi - margin, for scalar and per-sample margins."""
    cosine = cosines(10, 60, 100, 140, 175).requires_grad_()
    margin = torch.tensor([0.3, 0.5, 0.2, 0.45, 0.5], dtype=torch.float64, requires_grad=True)
    if name == "combined":
        assert torch.autograd.gradcheck(
            lambda c, m: margins.combined(c, 1.0 + m, 0.5 * m, m), (cosine, margin)
        )
    else:
        function: Callable[[Tensor, Tensor], Tensor] = getattr(margins, name)
        assert torch.autograd.gradcheck(function, (cosine, margin))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_ends(dtype: torch.dtype) -> None:
    """Rounding carries cosines to and past 1; arcface's slope is cos(margin) where it is held."""
    cosine = torch.tensor([1.0, 1.0 + 2e-7, -1.0, -1.0 - 2e-7], dtype=dtype)
    for function in (
        lambda c: margins.arcface(c, 0.5),
        lambda c: margins.arcface_straight_through(c, 0.5),
        lambda c: margins.combined(c, 1.2, 0.5, 0.1),
    ):
        leaf = cosine.clone().requires_grad_()
        value = function(leaf)
        value.sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(value).all()
        assert torch.isfinite(leaf.grad).all()
    leaf = cosine[:2].clone().requires_grad_()
    margins.arcface(leaf, 0.5).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full((2,), math.cos(0.5), dtype=dtype))


def test_straight_through_has_arcfaces_value_and_a_gradient_of_one() -> None:
    """The exact slope at 30 and 150 degrees is 1.7 and 0.05 of the one it uses (anchors)."""
    cosine = cosines(30, 150).requires_grad_()
    value = margins.arcface_straight_through(cosine, 0.5)
    (grad,) = torch.autograd.grad(value.sum(), cosine)
    exact = margins.arcface(cosine, 0.5)
    (exact_grad,) = torch.autograd.grad(exact.sum(), cosine)
    torch.testing.assert_close(value, exact)
    assert grad.tolist() == [1.0, 1.0]
    # sin(30 deg + 0.5) / sin 30 deg = 0.8557 * 2... worked: sin(1.0236) = 0.8540, / 0.5 = 1.708
    # sin(150 deg + 0.5) = sin(3.1180) = 0.02360, / 0.5 = 0.0472
    torch.testing.assert_close(
        exact_grad, torch.tensor([1.708, 0.0472], dtype=torch.float64), rtol=2e-3, atol=0
    )


def test_margins_leave_the_callers_tensor_alone() -> None:
    cosine = cosines(10, 100, 170)
    before = cosine.clone()
    margins.cosface(cosine, 0.3)
    margins.arcface(cosine, 0.5)
    margins.arcface_straight_through(cosine, 0.5)
    margins.combined(cosine, 2.0, 0.3, 0.1)
    assert torch.equal(cosine, before)
