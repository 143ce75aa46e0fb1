"""`torch.compile` of what a step runs on its device, for batches of one shape."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from facetrain.dist.mesh import Mesh


def compiled_backbone(module: nn.Module, mesh: Mesh) -> Callable[[Tensor], Tensor]:
    """`module` compiled for training; called elsewhere, as in an evaluation, it stays as it is.

    On one GPU its kernels, forward and backward, are recorded and replayed as CUDA graphs: a step
    of ResNet-100 has some two thousand of them, which a processor cannot start as fast as the
    GPU runs them. What it returns is overwritten after the next `begin_compiled_step`. Beside
    other ranks (DistributedDataParallel) nothing is recorded.
    """
    options: dict[str, Any] = {"triton.cudagraphs": _records(mesh)}
    compiled: Callable[[Tensor], Tensor] = torch.compile(module, dynamic=False, options=options)
    return compiled


def begin_compiled_step(mesh: Mesh) -> None:
    """Say that nothing of the step before is needed any more."""
    if _records(mesh):
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _records(mesh: Mesh) -> bool:
    return mesh.device.type == "cuda" and mesh.group is None
