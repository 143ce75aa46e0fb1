"""Collectives over a Mesh; at world size 1 each is the identity.

Every rank must call the same collectives in the same order with equal shapes. A rank that is
gone turns into `LostRankError` on the others (see `Mesh`).
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.errors import DataError
from facetrain.dist.mesh import Mesh, named_errors

# torch 2.14 warns of the names that it had before.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _AllGatherRows(torch.autograd.Function):
    """Forward all-gather along rows; backward reduce-scatter(sum)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: Mesh) -> Tensor:
        ctx.mesh = mesh
        return all_gather_no_grad(x, mesh)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return reduce_scatter_rows(grad_outputs[0], ctx.mesh), None


def all_gather_rows(x: Tensor, mesh: Mesh) -> Tensor:
    """Rows of all ranks in rank order, with a gradient.

    The backward sums over ranks what each sends back for these rows (reduce-scatter): it is the
    gradient of the sum of all ranks' losses.

    Takes (B, ...), the same shape on every rank; returns (G, ...) with G = B * world_size.
    """
    if mesh.group is None:
        return x
    gathered: Tensor = _AllGatherRows.apply(x, mesh)
    return gathered


def all_gather_no_grad(x: Tensor, mesh: Mesh) -> Tensor:
    """Rows (B, ...) of all ranks in rank order, (G, ...), outside autograd."""
    x = x.detach()
    if mesh.group is None:
        return x
    gathered = x.new_empty((x.shape[0] * mesh.world_size, *x.shape[1:]))
    with named_errors(mesh, "all-gather"):
        _all_gather(gathered, x.contiguous(), group=mesh.group)
    return gathered


def reduce_scatter_rows(x: Tensor, mesh: Mesh) -> Tensor:
    """The rank's own rows (B, ...) of the sum of (G, ...) over ranks, outside autograd."""
    x = x.detach()
    if mesh.group is None:
        return x
    assert x.shape[0] % mesh.world_size == 0, (x.shape, mesh.world_size)
    rows = x.shape[0] // mesh.world_size
    with named_errors(mesh, "reduce-scatter"):
        if x.device.type == "cuda":
            scattered = x.new_empty((rows, *x.shape[1:]))
            _reduce_scatter(scattered, x.contiguous(), group=mesh.group)
            return scattered
        # Not every gloo in the supported range of torch has a reduce-scatter.
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=mesh.group)
    return total[mesh.rank * rows : (mesh.rank + 1) * rows].clone()


def all_reduce_sum(x: Tensor, mesh: Mesh) -> Tensor:
    """Sum of `x` over ranks, written into `x` (contiguous) and returned; no gradient."""
    return _all_reduce(x, mesh, dist.ReduceOp.SUM)


def all_reduce_max(x: Tensor, mesh: Mesh) -> Tensor:
    """Elementwise maximum over ranks, written into `x` (contiguous) and returned; no gradient."""
    return _all_reduce(x, mesh, dist.ReduceOp.MAX)


def _all_reduce(x: Tensor, mesh: Mesh, operation: Any) -> Tensor:
    assert not (torch.is_grad_enabled() and x.requires_grad), "all-reduce has no gradient"
    if mesh.group is not None:
        with named_errors(mesh, "all-reduce"):
            dist.all_reduce(x, op=operation, group=mesh.group)
    return x


def broadcast(x: Tensor, mesh: Mesh) -> Tensor:
    """Rank 0's `x`, written into `x` (contiguous) on every rank and returned."""
    if mesh.group is not None:
        with named_errors(mesh, "broadcast"):
            dist.broadcast(x.detach(), src=0, group=mesh.group)
    return x


def gather_objects(value: Any, mesh: Mesh) -> list[Any]:
    """Every rank's small JSON-able `value`, in rank order, on every rank.

    Values travel as JSON (tuples become lists); nothing is pickled.
    """
    if mesh.group is None:
        return [json.loads(json.dumps(value))]
    encoded = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = all_gather_no_grad(torch.tensor([len(encoded)], device=mesh.device), mesh).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(encoded)] = encoded
    rows = all_gather_no_grad(padded.to(mesh.device)[None], mesh).cpu()
    return [json.loads(row[:size].numpy().tobytes()) for row, size in zip(rows, sizes, strict=True)]


def first_of_ranks(text: str | None, mesh: Mesh) -> str | None:
    """What the first rank that has a text says, the same on every rank; None where none has."""
    return next((one for one in gather_objects(text, mesh) if one), None)


def any_rank(flag: bool, mesh: Mesh) -> bool:
    """Whether `flag` holds on at least one rank; waits for the device."""
    if mesh.group is None:
        return flag
    return bool(all_reduce_max(torch.tensor([int(flag)], device=mesh.device), mesh).item())


def gather_rows(rows: NDArray[Any], mesh: Mesh) -> NDArray[Any]:
    """Rows (n, ...) of all ranks in rank order; n may differ."""
    if mesh.group is None:
        return rows
    sizes = [int(size) for size in gather_objects(len(rows), mesh)]
    padded = np.zeros((max(sizes), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    gathered = all_gather_no_grad(torch.from_numpy(padded).to(mesh.device), mesh).cpu().numpy()
    parts = gathered.reshape(mesh.world_size, *padded.shape)
    return np.concatenate([part[:size] for part, size in zip(parts, sizes, strict=True)])


@contextlib.contextmanager
def data_errors_on_all(mesh: Mesh) -> Iterator[None]:
    """A DataError that a rank meets inside is raised on every rank, the lowest rank's first.

    For work without collectives, at whose end every rank arrives.
    """
    failure = None
    try:
        yield
    except DataError as error:
        failure = str(error)
    failures = [text for text in gather_objects(failure, mesh) if text]
    if failures:
        raise DataError(failures[0])
