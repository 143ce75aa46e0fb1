"""Random packed class graphs, and Eq. 16's sum as slow loops over them."""

from typing import NamedTuple

import torch
from torch import Tensor

from facetrain.core.rng import torch_generator
from facetrain.graph.affinity import normalised_affinity
from facetrain.models.gcn import Activation

SIZES = (1, 7, 3, 9, 2)  # K 5: an isolated node, full and padded rows


class Table(NamedTuple):
    """Arguments of both backends."""

    neighbour: Tensor
    affinity: Tensor
    mask: Tensor


def random_table(
    sizes: tuple[int, ...] = SIZES, k: int = 5, dtype: torch.dtype = torch.float64
) -> Table:
    """Class graphs one after another; padded slots hold rows that do not exist."""
    generator = torch_generator(0, "table", *sizes)
    total = sum(sizes)
    neighbour = torch.full((total, k), 10**6)
    mask = torch.zeros(total, k, dtype=torch.bool)
    similarity = torch.rand(total, k, generator=generator, dtype=torch.float64) * 1.3 - 0.3
    start = 0
    for size in sizes:
        for i in range(size):
            others = torch.randperm(size, generator=generator)
            others = others[others != i][:k]
            neighbour[start + i, : len(others)] = start + others
            mask[start + i, : len(others)] = True
        start += size
    return Table(neighbour, normalised_affinity(similarity, mask).to(dtype), mask)


def random_features(rows: int, columns: int, *purpose: int | str) -> Tensor:
    generator = torch_generator(0, "features", *purpose)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def slow_sum(table: Table, message: Tensor, bias: Tensor, activation: Activation) -> Tensor:
    """Edge by edge, in torch operations that autograd knows."""
    total = []
    for i in range(len(message)):
        row = torch.zeros_like(message[0])
        for slot in range(table.mask.shape[1]):
            if table.mask[i, slot]:
                j = int(table.neighbour[i, slot])
                value = table.affinity[i, slot] * message[j] + bias
                row = row + (
                    value.clamp_min(0) if activation == "relu" else 1 / (1 + (-value).exp())
                )
        total.append(row)
    return torch.stack(total)


def two_derivatives(
    total: Tensor, message: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and second derivatives of a smooth function of the sum, which is not linear in it."""
    weight = torch.linspace(-1, 1, total.numel(), dtype=total.dtype, device=total.device)
    loss = (total.tanh() * weight.view_as(total)).sum()
    first = torch.autograd.grad(loss, (message, bias), create_graph=True)
    bend = (first[0] ** 2).sum() + (first[1] ** 3).sum()
    second = torch.autograd.grad(bend, (message, bias))
    return first[0].detach(), first[1].detach(), *second
