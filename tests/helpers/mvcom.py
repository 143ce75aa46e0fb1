"""A small backbone with batch statistics, a head, and meta images, for tests of MvCoM."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from facetrain.core.rng import torch_generator
from facetrain.dist.mesh import Mesh
from facetrain.engine.method import StepBatch
from facetrain.finetune.meta_set import LevelBatch
from facetrain.finetune.mvcom import Mvcom
from facetrain.finetune.settings import FinetuneStageConfig
from facetrain.finetune.variation_heads import VariationHeads
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.small import SmallResNet

NUM_IMAGES, NUM_META, NUM_CLASSES, SIZE, DIM, SCALE = 6, 8, 7, 32, 6, 6.0
LEVELS = (3, 2)
RATE, TAU = 0.1, 1e-4  # tau small: no margin reaches its bounds


def normal(*shape: int, name: str) -> Tensor:
    generator = torch_generator(0, "mvcom", name)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def integers(high: int, *shape: int, name: str) -> Tensor:
    return torch.randint(0, high, shape, generator=torch_generator(0, "mvcom", name))


class Float64Small(SmallResNet):
    """The small network, all of it in the precision of its weights."""

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.norm(self.stages(self.stem(image))).flatten(1)
        embedding: Tensor = self.features(self.fc(x))
        return embedding


def backbone() -> nn.Module:
    """In float64, with running statistics that are not those of a new network."""
    torch.manual_seed(0)
    module = Float64Small(DIM, SIZE, 4, (1, 1, 1, 1), 0.0).double()
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(normal(16, 3, SIZE, SIZE, name="statistics") + 0.3)
    return module


def head(mesh: Mesh) -> MarginHead:
    made = MarginHead(HeadConfig(scale=SCALE), NUM_CLASSES, DIM, mesh, 0)
    return made.double()


def heads() -> VariationHeads:
    made = VariationHeads(LEVELS, DIM).double()
    with torch.no_grad():
        made.weight.copy_(normal(sum(LEVELS), DIM, name="heads") / 4)
        made.bias.copy_(normal(sum(LEVELS), name="heads bias"))
    return made


def _share(values: Tensor, mesh: Mesh, padding: float) -> Tensor:
    """This rank's rows, filled up so that every rank has as many."""
    size = -(-len(values) // mesh.world_size)
    full = torch.full((size * mesh.world_size, *values.shape[1:]), padding, dtype=values.dtype)
    full[: len(values)] = values
    return full[mesh.rank * size : (mesh.rank + 1) * size]


def step_batch(mesh: Mesh) -> StepBatch:
    image = normal(NUM_IMAGES, 3, SIZE, SIZE, name="images")
    label = integers(NUM_CLASSES, NUM_IMAGES, name="labels")
    margin = torch.full((NUM_IMAGES,), 0.35, dtype=torch.float64)
    parts = (image, label, torch.arange(NUM_IMAGES), margin)
    paddings = (0.0, -1, -1, 0.35)
    return StepBatch(*(_share(x, mesh, p) for x, p in zip(parts, paddings, strict=True)))


def meta_batch(mesh: Mesh) -> LevelBatch:
    level = torch.stack(
        [integers(n, NUM_META, name=f"level {k}") for k, n in enumerate(LEVELS)], dim=1
    )
    level[0, 1] = -1
    image = normal(NUM_META, 3, SIZE, SIZE, name="meta images")
    return LevelBatch(_share(image, mesh, 0.0), _share(level, mesh, -1))


def train_level() -> Tensor:
    """(NUM_IMAGES, K) of the training images, one of them unknown."""
    level = [integers(n, NUM_IMAGES, name=f"train level {k}") for k, n in enumerate(LEVELS)]
    table = torch.stack(level, dim=1)
    table[1, 0] = -1
    return table


def class_margin() -> Tensor:
    return 0.2 + 0.02 * torch.arange(NUM_CLASSES, dtype=torch.float64)


def method(mesh: Mesh, module: nn.Module | None = None, **options: Any) -> Mvcom:
    def meta_batches(step: int) -> Iterator[LevelBatch]:
        del step
        return itertools.repeat(meta_batch(mesh))

    settings = {"normalisation": "none", "size": TAU, "head_learning_rate": 0.0, "distance": 1e-6}
    pieces, sign = options.pop("pieces", 1), options.pop("sign", None)
    config = FinetuneStageConfig.model_validate(
        {
            "data": {"path": "none"},
            "model": {"name": "small"},
            "optimizer": {"learning_rate": RATE},
            "schedule": {"name": "multistep"},
            "train": {
                "batch_size": NUM_IMAGES, "epochs": 1, "accumulate": pieces, "precision": "float32",
            },
            "finetune": {"residual": settings | options, "meta": {"path": "none"}},
        }
    )  # fmt: skip
    unbounded = config.finetune.model_copy(update={"max_margin": 1e3})
    made = Mvcom(
        config.model_copy(update={"finetune": unbounded}),
        head(mesh),
        module or backbone(),
        class_margin()[integers(NUM_CLASSES, NUM_IMAGES, name="labels")],
        heads=heads(),
        sign=torch.ones(len(LEVELS), dtype=torch.float64) if sign is None else sign,
        train_level=train_level(),
        meta_batches=meta_batches,
        steps_per_epoch=1,
    )
    made.start(0)
    return made
