"""A tiny run: random images, a backbone without batch statistics, a small head."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facetrain.core.rng import torch_generator
from facetrain.data.batches.loader import Batch
from facetrain.data.batches.sampler import TrainSampler
from facetrain.dist.collectives import all_gather_no_grad
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import Trainer
from facetrain.engine.method import Method
from facetrain.engine.settings import TrainingConfig
from facetrain.engine.termination import Termination
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead

NUM_IMAGES, NUM_CLASSES, SIZE, DIM = 30, 7, 8, 5


def training_config(**sections: Any) -> TrainingConfig:
    """For a trainer whose images and network are there already."""
    unread = {"data": {"path": "none"}, "model": {"name": "small"}}
    return TrainingConfig.model_validate(unread | sections)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch_generator(0, "test images")
    image = torch.randint(0, 256, (NUM_IMAGES, 3, SIZE, SIZE), generator=generator)
    label = torch.randint(0, NUM_CLASSES, (NUM_IMAGES,), generator=generator)
    return image.to(torch.uint8), label


def batches(start: int, batch_size: int, mesh: Mesh, seed: int = 0) -> Iterator[Batch]:
    image, label = images()
    sampler = TrainSampler(NUM_IMAGES, batch_size, seed)
    for step in itertools.count(start):
        rows = torch.from_numpy(sampler.rank_rows(step, mesh.rank, mesh.world_size))
        yield Batch(image[rows], torch.where(rows < 0, -1, label[rows]), rows)


def make_trainer(
    out_dir: Path, mesh: Mesh | None = None, *, batch_size: int = 6, **options: Any
) -> Trainer:
    mesh = mesh or Mesh.single()
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Dropout(options.pop("dropout", 0.0)),
        nn.Linear(4 * 36, DIM),
    )  # fmt: skip
    backbone = backbone.to(mesh.device)
    head_options = options.pop("head", {"scale": 8.0, "cosine_margin": 0.2})
    head = MarginHead(HeadConfig(**head_options), NUM_CLASSES, DIM, mesh, 0)
    optimizer = options.pop("optimizer", {"learning_rate": 0.1})
    evaluate = options.pop("evaluate", None)
    method = options.pop("method", lambda head, backbone: Method(head))(head, backbone)
    out_dir.mkdir(parents=True, exist_ok=True)
    return Trainer(
        training_config(
            seed=3,
            optimizer=optimizer,
            schedule={"name": "cosine", "warmup_epochs": 0.5},
            augment={"flip_probability": 0.5},
            train={"batch_size": batch_size, "epochs": 2, **options},
        ),
        backbone,
        method,
        out_dir,
        num_images=NUM_IMAGES,
        steps_per_epoch=NUM_IMAGES // batch_size,
        identity={"seed": "3"},
        evaluate=evaluate,
    )


def fit(trainer: Trainer, told: Termination | None = None) -> dict[str, Any]:
    size = trainer.loop.batch_size
    return trainer.fit(lambda start: batches(start, size, trainer.mesh), told or Termination())


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = {name: value.clone() for name, value in trainer.backbone.state_dict().items()}
    return {**state, "head": trainer.head.weight.detach().clone()}


def gathered_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The same with the class centres of all ranks put together; a collective call."""
    found = weights(trainer)
    size = -(-trainer.head.num_classes // trainer.mesh.world_size)
    padded = torch.zeros(size, *found["head"].shape[1:])
    padded[: len(found["head"])] = found["head"]
    gathered = all_gather_no_grad(padded, trainer.mesh)
    found["head"] = gathered[: trainer.head.num_classes]
    return found
