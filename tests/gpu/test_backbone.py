"""What the options of a GPU run do to one step of a real backbone: speed and memory alone."""

import gc
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers.engine import training_config
from torch import Tensor

from facetrain.core.rng import torch_generator
from facetrain.data.batches.loader import Batch
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import Trainer
from facetrain.engine.method import Method
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.backbone import ModelConfig, build_backbone

pytestmark = pytest.mark.gpu

BATCH, SIZE, NUM_CLASSES = 64, 64, 1000


@dataclass(frozen=True)
class Step:
    """What one optimiser step did."""

    loss: float
    moved: Tensor  # all parameters, after minus before
    running_mean: Tensor  # of every normalisation
    batches_tracked: list[int]
    peak_bytes: int


def take_step(folder: Path, checkpointing: bool = False, **options: object) -> Step:
    torch._dynamo.reset()
    gc.collect()  # or an earlier model, freed during this step, would count as memory saved
    mesh = Mesh.single("cuda")
    torch.manual_seed(0)
    model = ModelConfig(
        name="iresnet18", image_size=SIZE, embedding_size=128, gradient_checkpointing=checkpointing
    )
    backbone = build_backbone(model).to(mesh.device)
    head = MarginHead(HeadConfig(scale=16), NUM_CLASSES, 128, mesh, seed=0)
    trainer = Trainer(
        training_config(
            optimizer={"weight_decay": 0.0}, train={"batch_size": BATCH, "epochs": 1, **options}
        ),
        backbone,
        Method(head),
        folder,
        num_images=10 * BATCH,
        steps_per_epoch=10,
        identity={},
    )
    generator = torch_generator(0, "gpu backbone")
    image = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), generator=generator).to(torch.uint8)
    label = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    parameters = [p for p in (*backbone.parameters(), head.weight) if p.requires_grad]
    before = [parameter.detach().clone() for parameter in parameters]
    trainer._model.train()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    loss = trainer.train_step(Batch(image, label, torch.arange(BATCH))).item()
    peak = torch.cuda.max_memory_allocated() - held
    buffers = dict(backbone.named_buffers())
    return Step(
        loss=loss,
        moved=torch.cat(
            [
                (after.detach() - start).contiguous().flatten()
                for after, start in zip(parameters, before, strict=True)
            ]
        ),
        running_mean=torch.cat([v for n, v in buffers.items() if n.endswith("running_mean")]),
        batches_tracked=[
            int(value) for name, value in buffers.items() if name.endswith("num_batches_tracked")
        ],
        peak_bytes=peak,
    )


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.double(), other.double(), dim=0))


def assert_same_step(found: Step, expected: Step, least_cosine: float) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=0.01)
    assert cosine(found.moved, expected.moved) > least_cosine
    assert float(found.moved.norm() / expected.moved.norm()) == pytest.approx(1.0, abs=0.03)
    assert cosine(found.running_mean, expected.running_mean) > 0.9999
    assert set(found.batches_tracked) == {1}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "checkpointed"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_bfloat16_channels_last_step_is_the_plain_one(
    tmp_path: Path, compiled: bool, checkpointing: bool
) -> None:
    """bfloat16 keeps 8 bits: the whole gradient of 18 layers turns by a few degrees, no more."""
    plain = take_step(tmp_path / "plain", precision="float32")
    fast = take_step(
        tmp_path / "fast",
        checkpointing,
        precision="bfloat16",
        channels_last=True,
        compile=compiled,
    )
    assert_same_step(fast, plain, least_cosine=0.99)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gradient_checkpointing_saves_memory_and_nothing_else(
    tmp_path: Path, compiled: bool
) -> None:
    options: dict[str, object] = {"precision": "float32", "compile": compiled}
    stored = take_step(tmp_path / "stored", **options)
    checkpointed = take_step(tmp_path / "checkpointed", checkpointing=True, **options)
    assert_same_step(checkpointed, stored, least_cosine=0.9999)
    assert checkpointed.peak_bytes < 0.8 * stored.peak_bytes
