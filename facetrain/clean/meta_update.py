"""The meta-supervised update: learn from the source what also helps on the target."""

from collections.abc import Callable

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def meta_gradient(
    parameters: Parameters,
    train_loss: Callable[[Parameters], Tensor],
    test_loss: Callable[[Parameters], Tensor],
    *,
    inner_learning_rate: float,
    source_weight: float,
    second_order: bool,
) -> Parameters:
    """Gradient in theta of L^meta = gamma L^train(theta) + (1 - gamma) L^test(theta'), by name.

    theta' = theta - alpha grad L^train(theta) (ADC supplement, Eqs. 1-5). Eq. 5's last term, the
    Hessian of L^train times the gradient of L^test at theta', is one Hessian-vector product.
    It is written out, not left to a backward pass through the inner step, so that the graph of
    L^test is freed before it.

    Both losses are means over their B class graphs.

    Args:
        parameters: theta, by name; only their values are used.
        train_loss: parameters -> scalar, on the source (meta-train).
        test_loss: parameters -> scalar, on the target (meta-test).
        inner_learning_rate: alpha.
        source_weight: gamma, 0 to 1.
        second_order: False drops the Hessian's term.
    """
    theta = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    train_gradient = _gradient(train_loss(theta), theta, create_graph=second_order)
    stepped = {
        name: (value - inner_learning_rate * train_gradient[name]).detach().requires_grad_()
        for name, value in theta.items()
    }
    through_step = test_gradient = _gradient(test_loss(stepped), stepped)
    if second_order:
        product = torch.stack([(train_gradient[n] * test_gradient[n]).sum() for n in theta]).sum()
        bend = _gradient(product, theta)
        through_step = {
            name: value - inner_learning_rate * bend[name] for name, value in test_gradient.items()
        }
    return {
        name: source_weight * train_gradient[name].detach()
        + (1 - source_weight) * through_step[name]
        for name in theta
    }


def _gradient(value: Tensor, of: Parameters, *, create_graph: bool = False) -> Parameters:
    """By name; zero for a parameter that the value does not depend on."""
    gradient = torch.autograd.grad(
        value, list(of.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(of, gradient, strict=True))
