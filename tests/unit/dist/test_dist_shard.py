"""Shard arithmetic against worked numbers and against torch.chunk itself."""

import torch

from facetrain.dist.shard import shard_range, shard_sizes


def test_worked_sizes() -> None:
    assert shard_sizes(7, 3) == [3, 3, 1]
    assert shard_sizes(8, 5) == [2, 2, 2, 2, 0]  # ceil(8 / 5) = 2: the fifth rank is empty
    assert shard_sizes(2, 3) == [1, 1, 0]
    assert shard_sizes(0, 2) == [0, 0]


def test_ranges_are_those_of_torch_chunk() -> None:
    for total in range(1, 30):
        for world_size in range(1, 8):
            rows = torch.arange(total)
            chunks = list(rows.chunk(world_size))
            chunks += [rows[:0]] * (world_size - len(chunks))
            for rank, chunk in enumerate(chunks):
                start, stop = shard_range(total, rank, world_size)
                assert torch.equal(rows[start:stop], chunk), (total, world_size, rank)
