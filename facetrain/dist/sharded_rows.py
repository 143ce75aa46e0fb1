"""A training state as a checkpoint sees it: tensors all ranks share, and rows split over them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ShardedRows:
    """The rank's own rows of a tensor that is split over ranks by `dist.shard`."""

    local: Tensor
    num_rows: int


State = Mapping[str, Tensor | ShardedRows]


def first_not_finite(state: State) -> str | None:
    """The first name whose values on this rank hold NaN or infinity; waits for the device."""
    return next((name for name, value in state.items() if not _is_finite(local_rows(value))), None)


def _is_finite(tensor: Tensor) -> bool:
    """Whether every value is finite, without a temporary of the tensor's size."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor))


def local_rows(value: Tensor | ShardedRows) -> Tensor:
    """What this rank holds of it, without its gradient."""
    return (value.local if isinstance(value, ShardedRows) else value).detach()
