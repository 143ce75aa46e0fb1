"""A checkpoint is tested before it counts and verified before it is believed."""

import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from helpers.engine import fit, make_trainer, weights

from facetrain.core.artifact import read_json, read_sealed, write_json, write_sealed
from facetrain.core.errors import CheckpointError, DivergenceError
from facetrain.dist.mesh import Mesh
from facetrain.engine.checkpoint import (
    Checkpoints,
    Progress,
    checkpoints_of,
    newest_whole,
    read_progress,
)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps stopped after 8, with checkpoints at 6 and 8."""
    folder = tmp_path_factory.mktemp("run") / "out"
    fit(make_trainer(folder, checkpoint_every=2, max_steps=8))
    assert [path.name[-1] for path in checkpoints_of(folder / "checkpoints")] == ["6", "8"]
    return folder


@pytest.fixture(scope="module")
def undisturbed(interrupted: Path) -> dict[str, torch.Tensor]:
    trainer = make_trainer(interrupted.with_name("whole"), checkpoint_every=2)
    fit(trainer)
    return weights(trainer)


def resumed(folder: Path) -> dict[str, torch.Tensor]:
    trainer = make_trainer(folder, checkpoint_every=2)
    fit(trainer)
    return weights(trainer)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_any_bit_of_any_file_is_seen_and_the_run_ends_the_same(
    interrupted: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Bits, cuts and zeros in tensors, index and progress: the checkpoint before is taken."""
    chance = random.Random(0)
    for number in range(12):
        out = tmp_path / str(number)
        shutil.copytree(interrupted, out)
        newest = checkpoints_of(out / "checkpoints")[-1]
        path = sorted(newest.iterdir())[number % 3]
        content = bytearray(path.read_bytes())
        place = chance.randrange(len(content))
        match number // 3:
            case 0:
                content[place] ^= 1 << chance.randrange(8)
            case 1:
                del content[place:]
            case 2:
                content[place : place + 4096] = bytes(min(4096, len(content) - place))
            case _:
                path.unlink()
        if path.exists():
            path.write_bytes(content)
        assert same(resumed(out), undisturbed), (number, path)
        assert (out / "checkpoints" / "damaged_step_0000000008").is_dir()


def test_without_any_whole_checkpoint_it_begins_anew(
    interrupted: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(interrupted, out)
    for checkpoint in checkpoints_of(out / "checkpoints"):
        (checkpoint / ".metadata").write_bytes(b"")
    assert same(resumed(out), undisturbed)


def test_progress_of_another_step_or_schema_is_no_progress(
    interrupted: Path, tmp_path: Path
) -> None:
    newest = tmp_path / "step_0000000008"
    shutil.copytree(checkpoints_of(interrupted / "checkpoints")[-1], newest)
    path = newest / "progress.json"
    progress = read_sealed(path, Progress)
    write_sealed(path, progress.model_copy(update={"step": 9}))
    with pytest.raises(CheckpointError, match="step that its name says, but is of 9"):
        read_progress(newest)
    write_sealed(path, progress)
    whole = read_json(path)
    for changed in ({**whole, "step": 9}, {**whole, "first_loss": 0.1}):
        write_json(path, changed)
        with pytest.raises(CheckpointError, match="has changed since"):
            read_progress(newest)
    for changed in ([], {}, {**whole, "more": 1}, {**whole, "step": "x"}, {"digest": "1"}):
        write_json(path, changed)
        with pytest.raises(CheckpointError):
            read_progress(newest)


def test_another_stage_reads_around_damage_and_moves_nothing(
    interrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(interrupted / "checkpoints", folder)
    assert newest_whole(folder, Mesh.single()).name.endswith("8")
    (folder / "step_0000000008" / "__0_0.distcp").write_bytes(b"")
    assert newest_whole(folder, Mesh.single()).name.endswith("6")
    assert (folder / "step_0000000008").is_dir()
    (folder / "step_0000000006" / "progress.json").unlink()
    with pytest.raises(CheckpointError, match="must hold a whole checkpoint"):
        newest_whole(folder, Mesh.single())


@pytest.mark.parametrize("what", ["running variance", "optimiser", "overflow in use"])
def test_weights_that_nobody_can_use_are_not_kept(tmp_path: Path, what: str) -> None:
    """The loss stays finite in each case; without the test of the weights all three end well."""
    trainer = make_trainer(tmp_path, checkpoint_every=2)
    norm = torch.nn.BatchNorm1d(5)
    trainer.backbone.append(norm)  # type: ignore[operator]
    healthy = trainer.train_step

    def poisoned(batch):  # type: ignore[no-untyped-def]
        loss = healthy(batch)
        if trainer.step == 6:
            with torch.no_grad():
                if what == "running variance":
                    norm.running_var[0] = math.inf  # type: ignore[index]
                elif what == "optimiser":
                    state = next(iter(trainer.optimizers._optimizers[0].state.values()))
                    state["momentum_buffer"].view(-1)[0] = math.nan
                else:
                    norm.running_var.fill_(1e-30)  # type: ignore[union-attr, operator]
                    norm.eps = 1e-38
                    norm.running_mean.fill_(3e38)  # type: ignore[union-attr, operator]
        return loss

    trainer.train_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergenceError) as caught:
        fit(trainer)
    assert str(caught.value).startswith("training must not diverge, but after step 7 ")
    assert str(caught.value).endswith("step_0000000006")
    assert Checkpoints(tmp_path / "checkpoints", Mesh.single(), 2).newest_whole() is not None


def test_a_run_that_is_further_than_asked_for_is_refused(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"has done 8 steps, but train\.max_steps=5"):
        fit(make_trainer(tmp_path / "out", max_steps=5))
