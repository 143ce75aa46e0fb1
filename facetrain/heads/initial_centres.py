"""Class centres before the first step: a function of the seed, whatever the world size."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from facetrain.core.rng import torch_generator

_CENTRE_STD = 0.01
_INIT_BLOCK = 4096
"""Classes drawn from one generator: a shard of any size starts with the same centres."""


def initial_centres(start: int, stop: int, embedding_size: int, seed: int) -> Tensor:
    """Rows [start, stop) of the (num_classes, D) matrix that `seed` stands for."""
    centres = torch.empty(stop - start, embedding_size)

    def fill(block: int) -> None:
        drawn = torch.empty(_INIT_BLOCK, embedding_size)
        generator = torch_generator(seed, "class_centre", block)
        drawn.normal_(0.0, _CENTRE_STD, generator=generator)
        low, high = max(start, block * _INIT_BLOCK), min(stop, (block + 1) * _INIT_BLOCK)
        offset = block * _INIT_BLOCK
        centres[low - start : high - start] = drawn[low - offset : high - offset]

    # A generator draws on one core; ten million centres take it half a minute.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, range(start // _INIT_BLOCK, -(-stop // _INIT_BLOCK))))
    return centres
