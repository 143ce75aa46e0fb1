"""Data-parallel wrapping of a module (DistributedDataParallel underneath).

Gradients are SUMMED over ranks, not averaged: the loss that each rank back-propagates is its part
of one global objective, so it is divided by the global number of samples once, in the loss. The
same loss then gives the sharded head and the replicated backbone their exact gradients.
"""

import contextlib
import warnings
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import Mesh


def _sum_gradients(group: dist.ProcessGroup, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: the sum over ranks of one bucket."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    done: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return done


def wrap_ddp(module: nn.Module, mesh: Mesh) -> nn.Module:
    """`module` with its gradients summed over ranks in backward; itself at world size 1.

    Parameters and buffers start as rank 0's. Buffers (running statistics) are not synchronised
    at every step: call `average_buffers` before a checkpoint or an evaluation.

    The module must already be on `mesh.device`.
    """
    if mesh.group is None:
        return module
    with warnings.catch_warnings():
        # Its successor `forward_sync_buffers` does not exist in torch 2.11.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped = DistributedDataParallel(
            module,
            device_ids=[mesh.device] if mesh.device.type == "cuda" else None,
            process_group=mesh.group,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
    wrapped.register_comm_hook(mesh.group, _sum_gradients)
    return wrapped


def no_gradient_sync(module: nn.Module) -> AbstractContextManager[None]:
    """Context of all but the last micro-batch of an accumulated step: no communication.

    Both forward and backward belong inside it.
    """
    if isinstance(module, DistributedDataParallel):
        context: AbstractContextManager[None] = module.no_sync()
        return context
    return contextlib.nullcontext()


@torch.no_grad()
def average_buffers(module: nn.Module, mesh: Mesh) -> None:
    """Replace floating-point buffers by their mean over ranks: one model for all."""
    for buffer in module.buffers():
        if buffer.is_floating_point():
            all_reduce_sum(buffer, mesh).div_(mesh.world_size)
