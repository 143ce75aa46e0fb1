"""Collectives and data parallelism at world sizes 1, 2 and 3, against what one process computes."""

from typing import Any

import numpy as np
import torch
from helpers.ranks import Ranks
from torch import nn

from facetrain.dist import collectives
from facetrain.dist.mesh import Mesh
from facetrain.dist.parallel import average_buffers, no_gradient_sync, wrap_ddp


def gather_with_gradient(mesh: Mesh) -> Any:
    """Rank r holds rows r and r + 10; its loss weighs gathered row g by (r + 1) * g."""
    x = torch.tensor([[float(mesh.rank)], [mesh.rank + 10.0]], requires_grad=True)
    gathered = collectives.all_gather_rows(x, mesh)
    factor = (mesh.rank + 1) * torch.arange(float(2 * mesh.world_size))
    (gathered[:, 0] * factor).sum().backward()
    assert x.grad is not None
    return gathered.detach().numpy(), x.grad.numpy()


def test_all_gather_rows_and_its_gradient(ranks: Ranks) -> None:
    world = ranks.world_size
    whole = [[value] for rank in range(world) for value in (rank, rank + 10.0)]
    for rank, (gathered, grad) in enumerate(ranks.run(gather_with_gradient)):
        assert gathered.tolist() == whole
        # Row g is weighed by g * (1 + ... + world) over all ranks.
        ranks_sum = world * (world + 1) / 2
        assert grad.tolist() == [[2 * rank * ranks_sum], [(2 * rank + 1) * ranks_sum]]


def plain_collectives(mesh: Mesh) -> Any:
    """Each collective once, on values that tell the ranks apart."""
    value = torch.tensor([1.0, 10.0]) * (mesh.rank + 1)
    scattered = collectives.reduce_scatter_rows(
        torch.arange(float(2 * mesh.world_size)) * (mesh.rank + 1), mesh
    )
    return {
        "sum": collectives.all_reduce_sum(value.clone(), mesh).tolist(),
        "max": collectives.all_reduce_max(value.clone(), mesh).tolist(),
        "broadcast": collectives.broadcast(value.clone(), mesh).tolist(),
        "scattered": scattered.tolist(),
        "objects": collectives.gather_objects({"rank": mesh.rank, "text": "x" * mesh.rank}, mesh),
        "any_last": collectives.any_rank(mesh.rank == mesh.world_size - 1, mesh),
        "any_none": collectives.any_rank(False, mesh),
    }


def test_plain_collectives(ranks: Ranks) -> None:
    world = ranks.world_size
    total = world * (world + 1) / 2
    for rank, came in enumerate(ranks.run(plain_collectives)):
        assert came == {
            "sum": [total, 10 * total],
            "max": [world, 10 * world],
            "broadcast": [1, 10],
            "scattered": [2 * rank * total, (2 * rank + 1) * total],
            "objects": [{"rank": r, "text": "x" * r} for r in range(world)],
            "any_last": True,
            "any_none": False,
        }


def accumulated_gradient(mesh: Mesh) -> Any:
    """Two micro-batches of a batch-norm network; the gradient, and buffers before and after."""
    torch.manual_seed(mesh.rank)
    module = wrap_ddp(nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1)), mesh)
    linear, norm = getattr(module, "module", module)  # within its wrapping
    with torch.no_grad():
        linear.weight.fill_(1.0)
        norm.running_mean.fill_(float(mesh.rank))
    image = torch.tensor([[1.0, 2.0]]) * (mesh.rank + 1)
    with no_gradient_sync(module):
        getattr(module, "module", module).eval()
        module(image).sum().backward()
    before = linear.weight.grad.clone()
    module(3 * image).sum().backward()
    average_buffers(module, mesh)
    return before.numpy(), linear.weight.grad.numpy(), norm.running_mean.item()


def test_wrapped_gradients_are_summed_not_averaged(ranks: Ranks) -> None:
    """The frozen norm divides by sqrt(1 + 1e-5); the first micro-batch stays local."""
    world = ranks.world_size
    unit = np.array([[1.0, 2.0]]) / np.sqrt(1 + 1e-5)
    for rank, (before, after, running_mean) in enumerate(ranks.run(accumulated_gradient)):
        np.testing.assert_allclose(before, unit * (rank + 1), rtol=1e-6)
        np.testing.assert_allclose(after, 4 * unit * world * (world + 1) / 2, rtol=1e-6)
        assert running_mean == (world - 1) / 2
