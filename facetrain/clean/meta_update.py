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
    Hessian of L^train times the gradient of L^test at theta', comes of differentiating that step.

    Args:
        parameters: theta, by name; only their values are used.
        train_loss: parameters -> scalar, on the source (meta-train).
        test_loss: parameters -> scalar, on the target (meta-test).
        inner_learning_rate: alpha.
        source_weight: gamma, 0 to 1.
        second_order: False drops the Hessian's term.
    """
    theta = {name: value.detach().requires_grad_() for name, value in parameters.items()}

    def gradient(loss: Tensor, *, create_graph: bool = False) -> Parameters:
        """In theta, by name; zero for a parameter that the loss does not depend on."""
        of = list(theta.values())
        found = torch.autograd.grad(loss, of, create_graph=create_graph, materialize_grads=True)
        return dict(zip(theta, found, strict=True))

    train = gradient(train_loss(theta), create_graph=second_order)
    stepped = {name: value - inner_learning_rate * train[name] for name, value in theta.items()}
    test = gradient(test_loss(stepped))
    return {
        name: source_weight * train[name].detach() + (1 - source_weight) * test[name]
        for name in theta
    }
