"""SGD whose momentum and weight decay act only on the rows that have a gradient."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowSGD(torch.optim.Optimizer):
    """SGD with momentum and weight decay for class centres of which a step sees a part.

    For a sparse gradient only its rows move: their weight decay, momentum and update are those
    of SGD, and other rows and their momentum keep their bits. For a dense gradient it is
    torch.optim.SGD (no dampening, no Nesterov). The momentum buffer exists from the start, so
    that a checkpoint always has the same names.

    Args:
        params: parameters of shape (C, D).
        weight_decay: added to the gradient, times the parameter.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter]["momentum_buffer"]
                update = _update_rows if parameter.grad.is_sparse else _update_all
                update(parameter, buffer, group["lr"], group["momentum"], group["weight_decay"])


def _update_all(
    parameter: Tensor, buffer: Tensor, lr: float, momentum: float, weight_decay: float
) -> None:
    assert parameter.grad is not None
    buffer.mul_(momentum).add_(parameter.grad).add_(parameter, alpha=weight_decay)
    parameter.add_(buffer, alpha=-lr)


def _update_rows(
    parameter: Tensor, buffer: Tensor, lr: float, momentum: float, weight_decay: float
) -> None:
    assert parameter.grad is not None
    grad = parameter.grad.coalesce()
    rows = grad.indices()[0]  # (S,)
    velocity = buffer[rows].mul_(momentum).add_(grad.values())  # (S, D)
    velocity.add_(parameter[rows], alpha=weight_decay)
    buffer.index_copy_(0, rows, velocity)
    parameter.index_add_(0, rows, velocity, alpha=-lr)
