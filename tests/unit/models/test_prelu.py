"""PReLU's own derivative against PyTorch's."""

import pytest
import torch
from torch import Tensor, nn

from facetrain.models import prelu as module
from facetrain.models.prelu import PReLU


def both(
    shape: tuple[int, ...], num_weights: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, PReLU, nn.PReLU]:
    """Numbers with zeros among them, a gradient, and the two ways with equal weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    x[x.abs() < 0.1] = 0
    gradient = torch.randn(shape, generator=generator, dtype=dtype)
    ours, theirs = PReLU(num_weights, dtype=dtype), nn.PReLU(num_weights, dtype=dtype)
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(-0.3, 0.7, num_weights, dtype=dtype))
        theirs.load_state_dict(ours.state_dict())
    return x, gradient, ours, theirs


@pytest.mark.parametrize("shape", [(5, 3, 4, 2), (5, 3), (1, 3, 7), (0, 3, 2, 2)])
@pytest.mark.parametrize("num_weights", [1, 3])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 17], ids=["an image", "two", "all"])
def test_derivative_is_pytorchs(
    shape: tuple[int, ...], num_weights: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the input to the bit; in the weights to the order of a sum. 0 takes the slope below."""
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", at_once)
    x, gradient, ours, theirs = both(shape, num_weights)
    found = []
    for way in (ours, theirs):
        at = x.clone().requires_grad_()
        value = way(at)
        found.append((value, *torch.autograd.grad(value, (at, way.weight), gradient)))
    (value, to_x, to_weight), (right, right_to_x, right_to_weight) = found
    assert torch.equal(value, right)
    assert torch.equal(to_x, right_to_x)
    torch.testing.assert_close(to_weight, right_to_weight, rtol=1e-12, atol=1e-12)


def test_second_derivative() -> None:
    """By differences, in float64."""
    x, _, ours, _ = both((3, 3, 2, 2), 3)
    x = x.where(x.abs() > 0, 1.0).requires_grad_()  # it has none at 0

    def value(at: Tensor, weight: Tensor) -> Tensor:
        given: Tensor = torch.func.functional_call(ours, {"weight": weight}, (at,))
        return given.square()

    inputs = (x, ours.weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs)


def test_under_autocast_as_pytorchs() -> None:
    """In bfloat16 both ways; the weights' gradient to its 8 bits."""
    x, gradient, ours, theirs = both((4, 3, 5, 5), 3, torch.float32)
    found = []
    for way in (ours, theirs):
        at = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = way(at)
        value.backward(gradient.to(value.dtype))
        found.append((value, at.grad, way.weight.grad))
    assert found[0][0].dtype == torch.bfloat16
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=2e-2, atol=2e-2)
