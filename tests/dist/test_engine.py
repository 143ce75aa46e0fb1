"""N processes == 1 process, and a run resumed at another world size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engine import fit, gathered_weights, make_trainer
from helpers.ranks import Ranks

from facetrain.core.errors import DivergenceError
from facetrain.dist.mesh import Mesh
from facetrain.engine.termination import Termination

STEPS = 10


def train(mesh: Mesh, folder: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights after training, the class centres of all ranks put together."""
    trainer = make_trainer(Path(folder), mesh, **options)
    fit(trainer)
    return gathered_weights(trainer)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name in one:
        # float32 sums in another order, over ten steps.
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.5, "accumulate": 2},
        {"batch_size": 7},  # a batch that the ranks cannot share evenly
        {"optimizer": {"name": "adamw", "learning_rate": 0.01}},
    ],
    ids=["clipped and accumulated", "uneven", "adamw"],
)
def test_n_processes_are_one_process(ranks: Ranks, tmp_path: Path, options: dict[str, Any]) -> None:
    expected = train(Mesh.single(), str(tmp_path / "one"), options)
    for found in ranks.run(train, str(tmp_path / "many"), options):
        assert_close(expected, found)


def test_a_run_resumes_at_another_world_size(ranks: Ranks, tmp_path: Path) -> None:
    expected = train(Mesh.single(), str(tmp_path / "one"), {})
    two = Ranks(2)
    two.run(train, str(tmp_path / "moved"), {"max_steps": 4})
    two.close()
    for found in ranks.run(train, str(tmp_path / "moved"), {}):
        assert_close(expected, found)


def end_of_the_last_rank(mesh: Mesh, folder: str) -> int:
    trainer, told = make_trainer(Path(folder), mesh, log_every=3), Termination()
    if mesh.rank == mesh.world_size - 1:
        told.take()
    with pytest.raises(SystemExit):
        fit(trainer, told)
    return trainer.step


def test_one_rank_told_to_end_ends_all_at_the_next_line_of_the_log(
    ranks: Ranks, tmp_path: Path
) -> None:
    """One alone need not ask anybody, and ends at once."""
    step = 1 if ranks.world_size == 1 else 3
    assert set(ranks.run(end_of_the_last_rank, str(tmp_path))) == {step}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step_{step:010d}"]


def diverge_on_the_last_rank(mesh: Mesh, folder: str) -> str:
    trainer = make_trainer(Path(folder), mesh)
    if mesh.rank == mesh.world_size - 1:
        with torch.no_grad():
            trainer.head.weight.fill_(torch.nan)
    with pytest.raises(DivergenceError) as caught:
        fit(trainer)
    return str(caught.value)


def test_a_nan_on_one_rank_stops_every_rank(ranks: Ranks, tmp_path: Path) -> None:
    for text in ranks.run(diverge_on_the_last_rank, str(tmp_path)):
        assert "the loss of step 0 is nan" in text
