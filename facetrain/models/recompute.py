"""Gradient checkpointing: keep a block's input, run the block again in backward.

`torch.utils.checkpoint` runs a block twice and so would move the running statistics of its batch
normalisation twice a step. Here the second run leaves them alone, and a checkpointed network
trains to the same bits as a plain one.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from facetrain.models.frozen_statistics import frozen_statistics


def recomputed(block: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`forward(x)`, recomputed in backward instead of stored.

    Args:
        block: holds the parameters and buffers `forward` uses; nothing random may be in it, since
            the random state is not replayed.
        forward: a method of `block` that is not `block.__call__` itself.
        x: the block's input, the one activation that is kept.
    """
    output: Tensor
    if torch.compiler.is_compiling():
        # The compiler recomputes values and never the writes to buffers, and takes no context.
        output = checkpoint(forward, x, use_reentrant=False, preserve_rng_state=False)
        return output
    output = checkpoint(
        forward,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(block)),
    )
    return output
