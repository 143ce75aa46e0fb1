"""The training loop on a GPU: the CPU's path, resumable, without a wait inside a step."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.engine import batches, fit, make_trainer, weights

from facetrain.data.batches.augment import AugmentConfig
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import Trainer

pytestmark = pytest.mark.gpu


def on_gpu(folder: Path, **options: Any) -> Trainer:
    return make_trainer(folder, Mesh.single("cuda"), **options)


def assert_close(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float
) -> None:
    for name in one:
        torch.testing.assert_close(
            one[name].cpu(),
            other[name].cpu(),
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize(
    # float32 sums in another order, over ten steps; AdamW divides by small gradients.
    ("options", "tolerance"),
    [
        ({"clip_norm": 0.5, "accumulate": 2}, 1e-4),
        ({"head": {"scale": 8.0, "cosine_margin": 0.2, "chunk_size": 3}}, 1e-4),
        ({"channels_last": True}, 1e-4),
        ({"optimizer": {"name": "adamw", "learning_rate": 0.01}}, 1e-3),
        ({"compile": True, "clip_norm": 0.5, "accumulate": 2}, 1e-4),
    ],
    ids=["clipped and accumulated", "chunked", "channels_last", "adamw", "compiled"],
)
def test_ten_steps_are_those_of_the_cpu(
    tmp_path: Path, options: dict[str, Any], tolerance: float
) -> None:
    here = make_trainer(tmp_path / "cpu", **{**options, "compile": False})
    there = on_gpu(tmp_path / "gpu", precision="float32", **options)
    fit(here)
    fit(there)
    assert_close(weights(here), weights(there), tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float32", "dropout": 0.3},
        {"precision": "bfloat16", "channels_last": True},
        {"precision": "float16"},
        {"precision": "float32", "head": {"scale": 8.0, "sample_rate": 0.7}},
        {"precision": "bfloat16", "compile": True, "dropout": 0.3},
    ],
    ids=["dropout", "bfloat16", "float16", "sampled negatives", "compiled"],
)
def test_stopped_and_resumed_is_undisturbed(tmp_path: Path, options: dict[str, Any]) -> None:
    """The device's generators (dropout, negatives) are functions of the step as well."""
    whole = on_gpu(tmp_path / "whole", **options)
    fit(whole)
    fit(on_gpu(tmp_path / "parts", max_steps=4, **options))
    second = on_gpu(tmp_path / "parts", **options)
    with torch.no_grad():
        for parameter in (*second.backbone.parameters(), second.head.weight):
            parameter.add_(1)
    fit(second)
    # Equal kernels on equal inputs: only atomic additions may differ, by rounding.
    assert_close(weights(whole), weights(second), tolerance=1e-5)


def test_an_overflow_skips_the_step_and_halves_the_scale(tmp_path: Path) -> None:
    trainer = on_gpu(tmp_path, precision="float16")
    source = batches(0, 6, trainer.mesh)
    trainer._scaler.scale = 2.0**100  # beyond any float16 gradient
    before = weights(trainer)
    loss = trainer.train_step(next(source))
    assert torch.isfinite(loss)
    assert_close(before, weights(trainer), tolerance=0.0)
    assert trainer._scaler.scale == 2.0**99
    assert not trainer.optimizers.tensors()  # no momentum came of it
    trainer._scaler.scale = 2.0**10
    trainer.train_step(next(source))
    assert trainer._scaler.scale == 2.0**10
    assert all((before[name] != value).any() for name, value in weights(trainer).items())


def test_float16_moves_as_far_as_float32(tmp_path: Path) -> None:
    """The scale is taken out again; float16 has 11 bits, so a step agrees to a percent."""
    moved = {}
    for precision in ("float32", "float16"):
        trainer = on_gpu(tmp_path / precision, precision=precision)
        if precision == "float16":
            trainer._scaler.scale = 2.0**10  # gradients are up to 10: 2^16 would overflow
        before = weights(trainer)
        trainer.train_step(next(batches(0, 6, trainer.mesh)))
        moved[precision] = {name: value - before[name] for name, value in weights(trainer).items()}
    for name, expected in moved["float32"].items():
        difference = (moved["float16"][name] - expected).norm() / expected.norm()
        assert difference < 0.02, name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 1.0, "accumulate": 2, "channels_last": True},
        {"head": {"scale": 8.0, "margin": "arcface", "chunk_size": 3}},
        {"head": {"scale": 8.0, "sample_rate": 0.7}, "clip_norm": 1.0},
        {"optimizer": {"name": "adamw", "learning_rate": 0.01}},
        {"compile": True, "accumulate": 2, "channels_last": True},
    ],
    ids=["plain", "clipped and accumulated", "chunked arcface", "sampled", "adamw", "compiled"],
)
def test_a_step_never_waits_for_the_device(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = on_gpu(tmp_path, dropout=0.1, **options)
    changes = AugmentConfig(
        rotate_degrees=15,
        translate=0.05,
        brightness=0.3,
        gamma=0.3,
        blur_probability=0.5,
        low_resolution_probability=0.5,
        erase_probability=0.5,
    )
    trainer.config = trainer.config.model_copy(update={"augment": changes})
    source = batches(0, 6, trainer.mesh)
    for trainer.step in range(4):  # CUDA graphs: a warm-up, the recording, replays
        trainer.train_step(next(source))
    batch = next(source)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(batch)
        with pytest.raises(RuntimeError, match="synchroniz"):  # the detector is awake
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def one_rank_over_nccl(folder: str) -> None:
    """Half a run, then the rest of it, through NCCL, DDP and a sharded checkpoint."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    store = f"file://{folder}/store"
    dist.init_process_group("nccl", init_method=store, rank=0, world_size=1, device_id=device)
    mesh = Mesh(0, 1, device, dist.group.WORLD)
    options: dict[str, Any] = {"precision": "float32", "clip_norm": 0.5, "accumulate": 2}
    fit(make_trainer(Path(folder) / "nccl", mesh, max_steps=4, **options))
    trainer = make_trainer(Path(folder) / "nccl", mesh, **options)
    fit(trainer)
    torch.save({name: value.cpu() for name, value in weights(trainer).items()}, f"{folder}/found")
    mesh.close()


def test_one_rank_over_nccl_is_one_process(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=one_rank_over_nccl, args=(str(tmp_path),)
    )
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0
    trainer = on_gpu(tmp_path / "one", precision="float32", clip_norm=0.5, accumulate=2)
    fit(trainer)
    found = torch.load(tmp_path / "found", weights_only=True)
    assert_close(found, weights(trainer), tolerance=1e-5)
