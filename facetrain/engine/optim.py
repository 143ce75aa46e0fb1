"""The optimisers of one run: over the replicated backbone and the sharded class centres.

Gradients arrive as those of the mean loss over the global batch: the backbone's summed over
ranks (`dist.parallel`), each shard of class centres exact on the rank that owns it
(`heads.margin_head`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from facetrain.core.config import Config
from facetrain.core.errors import ConfigError
from facetrain.core.option_of import Of
from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import Mesh
from facetrain.dist.sharded_rows import ShardedRows
from facetrain.heads.margin_head import MarginHead
from facetrain.heads.row_optimizer import RowSGD


class OptimizerConfig(Config):
    """SGD with momentum or AdamW, over the backbone and the class centres alike."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    learning_rate: float = Field(0.1, gt=0)
    """The highest; `schedule` moves it."""
    momentum: Annotated[float, Of("name", ("sgd",))] = Field(0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 in SGD, decoupled in AdamW."""
    decay_norms: bool = True
    """Decay biases and normalisation weights too, as the field does."""


class Optimizers:
    """Backbone and head optimisers, stepped together under one learning-rate factor.

    Args:
        trained: a method's own modules, trained like the backbone.

    Raises:
        ConfigError: sampled negatives with an optimiser that would touch every row.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        backbone: nn.Module,
        head: MarginHead,
        trained: nn.Module | None = None,
    ) -> None:
        sampled = head.config.sample_rate < 1
        if sampled and config.name != "sgd":
            raise ConfigError(
                f"head.sample_rate={head.config.sample_rate} needs optimizer.name=sgd, which moves "
                f"the sampled rows alone, got {config.name!r}; change one of them"
            )
        self.config = config
        self._head = head
        modules = {"backbone": backbone} | ({"method": trained} if trained else {})
        self._names: dict[nn.Parameter, str] = {
            parameter: f"{owner}.{name}"
            for owner, module in modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._replicated = list(self._names)
        self._names[head.weight] = "head.weight"
        # Biases and norms have no weight decay; sampled class centres an optimizer of their own.
        plain = [p for p in self._replicated if p.ndim < 2 and not config.decay_norms]
        decayed = [p for p in self._replicated if not any(p is other for other in plain)]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        if not sampled:
            groups[0]["params"] = [*decayed, head.weight]
        rate, momentum = config.learning_rate, config.momentum
        self._optimizers: list[torch.optim.Optimizer]
        if config.name == "sgd":
            self._optimizers = [torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=True)]
        else:
            self._optimizers = [torch.optim.AdamW(groups, lr=rate, fused=True)]
        if sampled:
            self._optimizers.append(
                RowSGD([head.weight], rate, momentum, weight_decay=config.weight_decay)
            )

    def set_learning_rate(self, factor: float) -> None:
        """Set every group to `factor` times the configured learning rate."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * factor

    def step(self) -> None:
        """Apply and drop the gradients."""
        for optimizer in self._optimizers:
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def scale_gradients(self, factor: Tensor) -> None:
        """Multiply every gradient by `factor`, a scalar on the device."""
        gradients = [p.grad for p in (*self._replicated, self._head.weight) if p.grad is not None]
        # A sparse gradient through its values: multiplied itself, it would be sorted out again.
        dense = [g._values() if g.is_sparse else g for g in gradients]
        torch._foreach_mul_(dense, factor)

    @torch.no_grad()
    def gradient_norm(self, mesh: Mesh) -> Tensor:
        """Norm of the whole gradient, class centres of all ranks included; equal on every rank."""
        head = self._head.weight.grad
        own = torch.zeros((), device=mesh.device)
        if head is not None:
            values = head.coalesce().values() if head.is_sparse else head
            own = torch.linalg.vector_norm(values).float() ** 2
        shared = [p.grad for p in self._replicated if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(shared)).float()
        return (all_reduce_sum(own, mesh) + norms.square().sum()).sqrt()

    def state_names(self) -> list[str]:
        """Names of the state tensors, for `materialise`."""
        return sorted(f"{self._names[p]}/{key}" for p, key, _ in self._state())

    def tensors(self) -> Mapping[str, Tensor | ShardedRows]:
        """Checkpoint view of the state: name -> tensor, sharing its storage."""
        found: dict[str, Tensor | ShardedRows] = {}
        for parameter, key, value in self._state():
            rows = parameter is self._head.weight and value.shape == parameter.shape
            name = f"optimizer/{self._names[parameter]}/{key}"
            found[name] = ShardedRows(value, self._head.num_classes) if rows else value
        return found

    def materialise(self, names: Sequence[str]) -> None:
        """Create the state tensors called `names`, for a checkpoint to be loaded into."""
        parameters = {name: parameter for parameter, name in self._names.items()}
        owner = {p: o for o in self._optimizers for g in o.param_groups for p in g["params"]}
        for name in names:
            parameter_name, _, key = name.rpartition("/")
            parameter = parameters[parameter_name]
            value = torch.zeros_like(parameter.detach())
            if key == "step":  # AdamW's count, a scalar
                value = torch.zeros((), device=parameter.device)
            owner[parameter].state[parameter][key] = value

    def _state(self) -> Iterator[tuple[nn.Parameter, str, Tensor]]:
        for optimizer in self._optimizers:
            for parameter, state in optimizer.state.items():
                assert isinstance(parameter, nn.Parameter)
                for key, value in state.items():
                    if isinstance(value, Tensor):
                        yield parameter, key, value
