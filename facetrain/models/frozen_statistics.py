"""Batch normalisation that looks at a batch without remembering it."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Normalise by the batch as in training, but leave the running statistics alone.

    For passes that only look: a block run again in backward, a virtual step. Momentum 0 rather
    than `track_running_stats` off: a second run must save as many tensors for backward as the
    first, and the statistics are among them.
    """
    norms = [child for child in block.modules() if isinstance(child, _BatchNorm)]
    saved = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, num_batches in saved:
            norm.momentum = momentum
            norm.num_batches_tracked = num_batches
