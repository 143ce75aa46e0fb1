"""A network of the user's own, by the name `package.module:function`."""

import importlib
import inspect
import typing
from collections.abc import Callable

import torch
from torch import nn

from facetrain.core.errors import ConfigError


def is_own(name: str) -> bool:
    """Whether a name is of a function rather than of a network of ours."""
    return ":" in name


def own_function(name: str) -> Callable[..., nn.Module]:
    """The function `package.module:function`, which is imported now.

    It must say that it returns a network, `def function(config: ModelConfig) -> nn.Module`, or be a
    subclass of `nn.Module` itself: weights carry the name, and a name in a file may not call just
    anything.

    Raises:
        ConfigError: no such module or function, or one that does not say so.
    """
    module_name, _, function_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.name={name}: must be package.module:function, importable from here, but "
            f"{error}; install the package, or put its folder on PYTHONPATH"
        ) from None
    returned = found if inspect.isclass(found) else _returned(found)
    if not (inspect.isclass(returned) and issubclass(returned, nn.Module)):
        raise ConfigError(
            f"model.name={name}: must be a function from ModelConfig to nn.Module and say so, "
            f"`def {function_name or 'function'}(config: ModelConfig) -> nn.Module`, but is "
            f"{found!r:.80}"
        )
    function: Callable[..., nn.Module] = found
    return function


def _returned(function: object) -> object:
    try:
        return typing.get_type_hints(function).get("return")
    except (TypeError, NameError):
        return None


def check_network(module: nn.Module, name: str, embedding_size: int, image_size: int) -> None:
    """Hold a network of the user's own to its contract: images (B, 3, S, S) -> float (B, D).

    Two images are embedded, alone and together, in eval mode, without gradients.

    Raises:
        ConfigError: another shape or kind of number, or an image whose embedding depends on the
            others of its batch.
    """
    wanted = f"model.name={name}: must map images (B, 3, {image_size}, {image_size}) to embeddings"
    parameter = next(module.parameters(), None)
    if parameter is None:
        raise ConfigError(f"{wanted}, but has no parameters to train")
    if parameter.is_meta:
        return
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, image_size, image_size, generator=generator) * 2 - 1
    image = image.to(parameter.device)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            both, alone = module(image), module(image[1:])
    except Exception as error:
        raise ConfigError(f"{wanted}, but fails: {error}") from error
    finally:
        module.train(was_training)
    shape = tuple(both.shape) if isinstance(both, torch.Tensor) else type(both).__name__
    if shape != (2, embedding_size) or not both.is_floating_point():
        raise ConfigError(
            f"{wanted} (B, {embedding_size}) of float, but two images gave {shape}; return "
            "config.embedding_size numbers an image"
        )
    if not torch.isfinite(both).all() or not torch.allclose(both[1:], alone, 1e-3, 1e-4):
        raise ConfigError(
            f"{wanted} that are finite and each image's own, but in eval mode one depends on the "
            "rest of its batch; normalise by running statistics"
        )
