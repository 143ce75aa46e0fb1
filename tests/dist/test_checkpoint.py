"""State saved at one world size and loaded at every other, uneven and empty shards included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.ranks import Ranks

from facetrain.core.errors import CheckpointError
from facetrain.dist.distributed_checkpoint import load_state, save_state
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.dist.sharded_rows import ShardedRows

ROWS = (1, 2, 7)
"""1 and 2 rows leave ranks empty at world size 3; 7 divides by nothing."""


def whole(num_rows: int) -> torch.Tensor:
    return torch.arange(3.0 * num_rows).reshape(num_rows, 3) + 0.5


def state(mesh: Mesh, filled: bool) -> dict[str, Any]:
    """The full state as this rank holds it, or its empty template."""
    tensors: dict[str, Any] = {
        "weight": torch.arange(4.0),
        "step": torch.tensor(17),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }
    for num_rows in ROWS:
        start, stop = shard_range(num_rows, mesh.rank, mesh.world_size)
        tensors[f"rows{num_rows}"] = ShardedRows(whole(num_rows)[start:stop].clone(), num_rows)
    if not filled:
        for value in tensors.values():
            (value.local if isinstance(value, ShardedRows) else value).zero_()
    return tensors


def save(mesh: Mesh, folder: Path) -> None:
    save_state(state(mesh, filled=True), folder / f"from{mesh.world_size}", mesh)


def load_and_compare(mesh: Mesh, folder: Path) -> None:
    for world_size in (1, 2, 3):
        template = state(mesh, filled=False)
        load_state(template, folder / f"from{world_size}", mesh)
        for name, expected in state(mesh, filled=True).items():
            came = template[name]
            if isinstance(expected, ShardedRows):
                came, expected = came.local, expected.local
            assert torch.equal(came, expected), (world_size, name, came)


def refuse_on_every_rank(mesh: Mesh, folder: Path) -> None:
    """A misfit, and a file that is gone, end in the same named error on all ranks."""
    with pytest.raises(CheckpointError, match="'other'"):
        load_state({"other": torch.zeros(1)}, folder / "from3", mesh)
    with pytest.raises(CheckpointError, match=r"cannot be read \(FileNotFoundError"):
        load_state({"weight": torch.zeros(4)}, folder / "absent", mesh)


def test_every_world_size_loads_every_other(pools: dict[int, Ranks], tmp_path: Path) -> None:
    for pool in pools.values():
        pool.run(save, tmp_path)
    for pool in pools.values():
        pool.run(load_and_compare, tmp_path)
        pool.run(refuse_on_every_rank, tmp_path)
