"""L2B's weights against the look-ahead of the paper, differentiated twice, sample by sample."""

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from facetrain.core.rng import torch_generator
from facetrain.dist.mesh import Mesh
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import HeadOutput, MarginHead
from facetrain.robust.l2b import (
    Parameters,
    directional_derivative,
    normalise,
    step_size,
)

B, M, D, C = 7, 4, 5, 6
ETA, RATE = 0.7, 0.3
Losses = Callable[[Parameters], Tensor]


def draw(*shape: int, name: str) -> Tensor:
    generator = torch_generator(0, "l2b", name)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


X, META_X = draw(B, D, name="x"), draw(M, D, name="meta_x")
LABEL, META_LABEL = torch.tensor([0, 1, 2, 3, 4, 5, 0]), torch.tensor([1, 3, 5, 5])


def tiny_parameters() -> Parameters:
    shapes = {"first": (D, 8), "bias": (8,), "second": (8, C), "unused": (2,)}
    return {name: draw(*shape, name=name) for name, shape in shapes.items()}


def logits(theta: Parameters, x: Tensor) -> Tensor:
    return torch.tanh(x @ theta["first"] + theta["bias"]) @ theta["second"]


PSEUDO_LABEL = logits(tiny_parameters(), X).argmax(1)
PSEUDO_LABEL[2] = LABEL[2]  # at least one that agrees


def both_losses(theta: Parameters) -> Tensor:
    z = logits(theta, X)
    return torch.stack([F.cross_entropy(z, y, reduction="none") for y in (LABEL, PSEUDO_LABEL)])


def meta_loss(theta: Parameters) -> Tensor:
    return F.cross_entropy(logits(theta, META_X), META_LABEL, reduction="sum")


def directional_losses(
    losses: Losses,
    meta: Losses,
    parameters: Parameters,
    how: Literal["difference", "jvp"] = "difference",
    distance: float = 1e-2,
) -> Tensor:
    """<grad loss_i, grad meta> of every loss: Eqs. 19 and 24 without the factor eta lambda.

    By one forward-mode pass, or by the difference that the method takes.
    """
    theta = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    gradient = torch.autograd.grad(meta(theta), list(theta.values()), materialize_grads=True)
    direction = dict(zip(theta, gradient, strict=True))
    values = {name: value.detach() for name, value in parameters.items()}
    if how == "jvp":
        along: Tensor = torch.func.jvp(losses, (values,), (direction,))[1]
        return along.detach()
    return directional_derivative(losses, values, direction, step_size(direction, distance))


def look_ahead(losses: Losses, meta: Losses, theta: Parameters) -> Tensor:
    """Eqs. 15-18: minus eta times the slope of the meta loss after one virtual step, at 0."""
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    loss = losses(theta)
    weight = torch.zeros_like(loss, requires_grad=True)
    gradient = torch.autograd.grad(
        (weight * loss).sum(), list(theta.values()), create_graph=True, materialize_grads=True
    )
    stepped = {
        name: value - RATE * slope
        for (name, value), slope in zip(theta.items(), gradient, strict=True)
    }
    return -ETA * torch.autograd.grad(meta(stepped), weight)[0]


def one_by_one(losses: Losses, meta: Losses, theta: Parameters) -> Tensor:
    """Eqs. 19 and 24, with each loss's own gradient."""
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    values = list(theta.values())
    v = torch.autograd.grad(meta(theta), values, materialize_grads=True)
    loss = losses(theta)
    out = torch.zeros_like(loss)
    for place in range(loss.numel()):
        one = torch.autograd.grad(
            loss.flatten()[place], values, retain_graph=True, materialize_grads=True
        )
        out.flatten()[place] = sum((a * b).sum() for a, b in zip(v, one, strict=True))
    return out.detach()


@pytest.mark.parametrize(("how", "tolerance"), [("jvp", 1e-13), ("difference", 1e-6)])
def test_equals_the_naive_double_backward(
    how: Literal["jvp", "difference"], tolerance: float
) -> None:
    """The jvp to rounding; the difference to distance^2 = 1e-6 of curvature."""
    theta = tiny_parameters()
    expected = look_ahead(both_losses, meta_loss, theta)
    came = ETA * RATE * directional_losses(both_losses, meta_loss, theta, how=how, distance=1e-3)
    scale = expected.abs().max().item()
    assert scale > 0.1
    torch.testing.assert_close(came, expected, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(
        ETA * RATE * one_by_one(both_losses, meta_loss, theta), expected, rtol=1e-12, atol=1e-14
    )
    assert (expected > 0).any()
    assert (expected < 0).any()


def test_the_error_of_the_difference_is_of_second_order() -> None:
    theta = tiny_parameters()
    exact = directional_losses(both_losses, meta_loss, theta, how="jvp")
    errors = [
        (directional_losses(both_losses, meta_loss, theta, distance=d) - exact).abs().max().item()
        for d in (2e-2, 1e-2)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("how", ["jvp", "difference"])
def test_equal_where_label_and_pseudo_label_agree(how: Literal["jvp", "difference"]) -> None:
    alpha, beta = directional_losses(both_losses, meta_loss, tiny_parameters(), how=how)
    agree = PSEUDO_LABEL == LABEL
    assert agree.any()
    assert not agree.all()
    assert torch.equal(alpha[agree], beta[agree])
    assert (alpha[~agree] != beta[~agree]).all()


def test_a_step_with_the_weights_lowers_the_meta_loss() -> None:
    """Section 7.3, for a small step; with the weights turned round it rises."""
    theta = tiny_parameters()
    weight = directional_losses(both_losses, meta_loss, theta, how="jvp")
    before = meta_loss(theta)
    for sign in (1, -1):
        moved = {name: value.clone().requires_grad_() for name, value in theta.items()}
        gradient = torch.autograd.grad(
            (sign * weight * both_losses(moved)).sum(), list(moved.values()), allow_unused=True
        )
        after = meta_loss(
            {
                name: value - 1e-4 * (0 if slope is None else slope)
                for (name, value), slope in zip(theta.items(), gradient, strict=True)
            }
        )
        assert (after < before) == (sign == 1)


def test_a_meta_set_that_is_learnt_asks_for_nothing() -> None:
    theta = tiny_parameters()
    came = directional_losses(both_losses, lambda theta: theta["unused"].sum() * 0, theta)
    assert torch.equal(came, torch.zeros(2, B, dtype=torch.float64))
    zero = {name: torch.zeros_like(value) for name, value in theta.items()}
    assert step_size(zero, 1e-2) == 0
    assert step_size({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}, 1.0) == 0.2
    assert not directional_derivative(both_losses, theta, zero, step_size(zero, 1e-2)).any()


def test_parameters_stay_as_they_were() -> None:
    theta = {name: value.requires_grad_() for name, value in tiny_parameters().items()}
    came = directional_losses(both_losses, meta_loss, theta)
    assert not came.requires_grad
    assert all(value.grad is None for value in theta.values())
    assert all(torch.equal(value, tiny_parameters()[name]) for name, value in theta.items())


@pytest.mark.parametrize("margin", ["cosface", "arcface"])
def test_through_the_margin_head(margin: Literal["cosface", "arcface"]) -> None:
    """The head's own backward has no forward mode; the difference asks for none."""
    head = MarginHead(HeadConfig(margin=margin, scale=8.0), C, D, Mesh.single(), seed=0).double()
    theta = {"weight": draw(C, D, name="centres"), "linear": draw(D, D, name="linear")}

    def loss(theta: Parameters, x: Tensor, label: Tensor) -> Tensor:
        centres = {"weight": theta["weight"]}
        output: HeadOutput = functional_call(head, centres, (x @ theta["linear"], label))
        return output.loss

    def losses(theta: Parameters) -> Tensor:
        return torch.stack([loss(theta, X, label) for label in (LABEL, PSEUDO_LABEL)])

    def meta(theta: Parameters) -> Tensor:
        return loss(theta, META_X, META_LABEL).mean()

    expected = one_by_one(losses, meta, theta)
    came = directional_losses(losses, meta, theta, distance=1e-4)
    # Third derivatives go with scale^3 = 512 times distance^2 / 6.
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


SCALE = 6.0


def test_normalise_by_hand() -> None:
    alpha, beta = torch.tensor([3.0, -1.0]), torch.tensor([0.0, 1.0])
    came = torch.stack(normalise(alpha, beta, "clamp"))
    torch.testing.assert_close(came, torch.tensor([[0.75, 0.0], [0.0, 0.25]]))
    raw = [3.0, -1.0, 0.0, 1.0]
    sigmoid = [1 / (1 + math.exp(-x)) for x in raw]
    came = torch.cat(normalise(alpha, beta, "sigmoid"))
    assert came.tolist() == pytest.approx([x / sum(sigmoid) for x in sigmoid], rel=1e-6)
    for temperature in (1.0, 10.0):
        exp = [math.exp(x / temperature) for x in raw]
        came = torch.cat(normalise(alpha, beta, "softmax", temperature=temperature))
        assert came.tolist() == pytest.approx([x / sum(exp) for x in exp], rel=1e-6)


def test_normalise_gives_no_weight_where_nothing_agrees() -> None:
    negative = -torch.ones(3)
    assert not torch.cat(normalise(negative, negative, "clamp")).any()
    for how in ("sigmoid", "softmax"):
        assert torch.cat(normalise(negative, negative, how)).tolist() == pytest.approx([1 / 6] * 6)


def test_clamped_weights_do_not_depend_on_the_scale() -> None:
    """So eta and lambda need not be known; for the softmax they must."""
    alpha, beta = draw(2, 9, name="raw")
    one, other = (torch.cat(normalise(s * alpha, s * beta, "clamp")) for s in (1, 50))
    torch.testing.assert_close(one, other)
    one, other = (torch.cat(normalise(s * alpha, s * beta, "softmax")) for s in (1, 50))
    assert not torch.allclose(one, other, atol=0.1)
