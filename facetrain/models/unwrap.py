"""The backbone's state dict in a checkpoint that somebody else wrote.

Checkpoints wrap it: arcface_torch's `state_dict_backbone`, Lightning's `state_dict`, others'
`backbone` or `model`; DDP, torch.compile and a module of modules put a prefix before its names.
What is unambiguous is unwrapped, and what was done is logged.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facetrain.core.errors import CheckpointError
from facetrain.core.log import logger

_WRAPPERS = (
    "state_dict_backbone", "state_dict", "model_state_dict", "backbone", "model", "net",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.")


def unwrap(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """Names to tensors of the backbone alone, in what `torch.load` gave.

    Raises:
        CheckpointError: no state dict, or more than one that could be the backbone's.
    """
    state, done = checkpoint, list[str]()
    while isinstance(state, Mapping) and not _is_state(state):
        inner = [key for key in _WRAPPERS if isinstance(state.get(key), Mapping) and state[key]]
        if len(inner) > 1:
            raise CheckpointError(
                f"{source}: must hold one backbone, but both {inner[0]!r} and {inner[1]!r} could "
                "be it; save `backbone.state_dict()` by itself"
            )
        if not inner:
            break
        state = state[inner[0]]
        done.append(f"took {inner[0]!r}")
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{source}: must hold a backbone's state dict (names to tensors), "
            f"got {type(state).__name__}; save `backbone.state_dict()`"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{source}: must hold a backbone's state dict (names to tensors), got "
                f"{type(value).__name__} under {name!r:.60}; save `backbone.state_dict()`"
            )
    tensors = strip_prefixes(dict(state), done)
    if done:
        logger.info("%s: %s", source, ", ".join(done))
    return tensors


def _is_state(state: Mapping[Any, Any]) -> bool:
    return bool(state) and all(isinstance(value, Tensor) for value in state.values())


def strip_prefixes(state: dict[str, Tensor], done: list[str]) -> dict[str, Tensor]:
    """`state` without what stands before all of its names, or before those of its backbone.

    What was done is added to `done`.
    """
    while True:
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in state)), None)
        if prefix is None:  # a classifier beside the backbone
            some = [p for p in _PREFIXES if any(n.startswith(p) for n in state)]
            if len(some) != 1:
                return state
            prefix = some[0]
            left = [name for name in state if not name.startswith(prefix)]
            done.append(f"left out {len(left)} tensors beside {prefix}* ({left[0]}, ...)")
        state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        done.append(f"dropped {prefix!r} before its names")


def count_batches(state: dict[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Add the counters of batch normalisation that old files lack; no embedding needs them."""
    lacking = [n for n in expected if n.endswith(".num_batches_tracked") and n not in state]
    if lacking:
        state |= {name: torch.zeros((), dtype=torch.int64) for name in lacking}
        logger.info("%s: %d num_batches_tracked were missing; set to 0", source, len(lacking))


def check_tensor(name: str, value: Tensor, expected: Tensor, source: str) -> None:
    """Refuse what is no plain tensor of the kind that the network has in its place.

    Raises:
        CheckpointError: another type, a sparse or quantised one, values that share their memory
            as if it were more, or a value that is not finite.
    """
    plain = value.layout is torch.strided and not value.is_quantized and not value.is_complex()
    if not plain or value.is_floating_point() != expected.is_floating_point():
        kind = "sparse " if value.layout is not torch.strided else ""
        wanted = "real numbers" if expected.is_floating_point() else "whole numbers"
        raise CheckpointError(
            f"{source}: {name} must be {wanted}, got {kind}{value.dtype}; save it as "
            f"{expected.dtype}"
        )
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{source}: {name} must hold {value.numel()} values of its own, but repeats "
            f"{value.untyped_storage().nbytes()} bytes; save a copy of it"
        )
    if value.is_floating_point() and not (finite := value.float().isfinite()).all():
        raise CheckpointError(
            f"{source}: weights must be finite, but {name} has {int((~finite).sum())} of "
            f"{value.numel()} values NaN or infinite; use an earlier checkpoint"
        )
