"""A rank that dies is named on the others, soon, instead of leaving them to wait."""

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import LostRankError, Mesh


def survive(rank: int, init_method: str, dies: bool, pipe: Connection) -> None:
    """Rank 1 dies or sleeps after the first collective; rank 0 reports what the second says."""
    mesh = Mesh.join(rank, 2, rank, "cpu", init_method, timeout_seconds=30.0 if dies else 2.0)
    all_reduce_sum(torch.ones(1), mesh)
    if rank == 1:
        if not dies:
            time.sleep(60)
        return
    start = time.monotonic()
    try:
        all_reduce_sum(torch.ones(1), mesh)
        pipe.send(("no error", 0.0))
    except LostRankError as error:
        pipe.send((str(error), time.monotonic() - start))


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "hangs"])
def test_lost_rank_is_named(tmp_path: Path, dies: bool) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    processes = [
        context.Process(
            target=survive, args=(rank, f"file://{tmp_path}/store", dies, there), daemon=True
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    assert here.poll(60), "rank 0 waits forever"
    text, seconds = here.recv()
    for process in processes:
        process.kill()
        process.join()
    assert text.startswith("rank 0 of 2: all-reduce failed: every rank must answer within")
    # A death is noticed at once, not by the 30 s timeout; a hang by its 2 s timeout.
    assert seconds < 20


def test_a_rank_that_never_comes(tmp_path: Path) -> None:
    with pytest.raises(LostRankError, match="rank 0 of 2: joining the job failed"):
        Mesh.join(0, 2, 0, "cpu", f"file://{tmp_path}/store", timeout_seconds=1.0)
