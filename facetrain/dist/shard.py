"""Which rows of a global array a rank holds: pure arithmetic, the same as `torch.chunk`.

Chunks have ceil(total / world_size) rows; the last ones may be short or empty.
"""


def shard_range(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """(start, stop) of the rows that `rank` holds, e.g. 7 rows on 3 ranks: 0-3, 3-6, 6-7."""
    assert total >= 0, total
    assert 0 <= rank < world_size, (rank, world_size)
    size = -(-total // world_size)
    return min(rank * size, total), min((rank + 1) * size, total)
