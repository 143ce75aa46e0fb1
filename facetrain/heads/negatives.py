"""Partial FC: all positives and a random part of the negatives (arXiv:2203.15565).

The gradient of the class centres is then a sparse tensor of the sampled rows; `RowSGD` leaves
every other row, and its momentum, untouched.
"""

import torch
from torch import Tensor


def sample_classes(
    local_target: Tensor, num_classes: int, sample_rate: float, generator: torch.Generator
) -> Tensor:
    """Ascending rows of this shard that take part in one step.

    Holds every positive of the batch, and uniformly drawn negatives up to
    max(sample_rate * num_classes, number of targets) rows. Its size does not depend on the
    labels, so that nothing waits for the device.

    Args:
        local_target: (G, T) row of each target in this shard, -1 where it is not here.
        num_classes: C, rows of this shard.
        sample_rate: in (0, 1].
        generator: on `local_target`'s device.

    Returns:
        (S,) int64.
    """
    size = min(num_classes, max(round(sample_rate * num_classes), local_target.numel()))
    key = torch.rand(num_classes + 1, generator=generator, device=local_target.device)
    # Absent targets write to the last place, which is cut off. `key[place] = 2.0` would send the
    # number to the device and wait for it.
    place = torch.where(local_target >= 0, local_target, num_classes)
    key.index_fill_(0, place.flatten(), 2.0)
    return torch.topk(key[:num_classes], size, sorted=False).indices.sort().values


def position_in_sample(local_target: Tensor, sampled: Tensor) -> Tensor:
    """Position of each target within `sampled`, which holds them all; -1 stays -1."""
    return torch.where(local_target >= 0, torch.searchsorted(sampled, local_target), -1)
