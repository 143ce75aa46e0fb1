"""Shard arithmetic against worked numbers and against torch.chunk itself."""

import torch

from facetrain.dist.shard import shard_range


def test_worked_ranges() -> None:
    assert [shard_range(7, rank, 3) for rank in range(3)] == [(0, 3), (3, 6), (6, 7)]
    assert shard_range(8, 4, 5) == (8, 8)  # ceil(8 / 5) = 2: the fifth rank is empty
    assert [shard_range(0, rank, 2) for rank in range(2)] == [(0, 0)] * 2


def test_ranges_are_those_of_torch_chunk() -> None:
    for total in range(1, 30):
        for world_size in range(1, 8):
            rows = torch.arange(total)
            chunks = list(rows.chunk(world_size))
            chunks += [rows[:0]] * (world_size - len(chunks))
            for rank, chunk in enumerate(chunks):
                start, stop = shard_range(total, rank, world_size)
                assert torch.equal(rows[start:stop], chunk), (total, world_size, rank)
