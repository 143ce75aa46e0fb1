"""Parts of a network that a training leaves as they are."""

import types
from collections.abc import Sequence

from torch import nn

from facetrain.core.errors import ConfigError


def freeze(module: nn.Module, names: Sequence[str]) -> None:
    """Hold the submodules called `names` fixed: weights, running statistics, no dropout.

    Frozen parts stay in eval mode whatever mode the network is put into.

    Args:
        names: of submodules, e.g. `layer1` or `layer3.0`.

    Raises:
        ConfigError: no such submodule, or nothing left to train.
    """
    parts = dict(module.named_modules())
    for name in names:
        if not name or name not in parts:
            first = ", ".join(child for child, _ in module.named_children())
            raise ConfigError(
                f"model.freeze={name!r}: must name parts of the network, which begins with {first}"
            )
        part = parts[name]
        part.requires_grad_(False)
        part.eval()
        part.train = types.MethodType(_stay, part)
    if names and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(
            "model.freeze: must leave a part of the network to train; name fewer parts"
        )


def _stay(part: nn.Module, mode: bool = True) -> nn.Module:
    """`train` of a frozen part: eval mode, always."""
    del mode
    return part
