"""Seconds and memory of one training step: plain, MvCoM, and MvCoM by a double backward pass.

    python -m tools.benchmarks.mvcom.cost --variant mvcom [--model iresnet18 --image-size 112]

One variant a process, so that the peak of its memory is its own; prints JSON. mvcom/run.py
calls it for each.
"""

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from facetrain.data.batches.loader import Batch
from facetrain.dist.mesh import Mesh
from facetrain.engine.cpu_memory import keep_freed_memory
from facetrain.engine.loop import Trainer
from facetrain.engine.method import Method
from facetrain.finetune.meta_set import LevelBatch
from facetrain.finetune.mvcom import Mvcom
from facetrain.finetune.settings import FinetuneStageConfig
from facetrain.finetune.variation_heads import VariationHeads
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.backbone import ModelConfig, build_backbone
from tools.benchmarks.common import UNREAD, make_parser, memory_mib, training_config

VARIANTS = ("plain", "mvcom", "mvcom_no_pseudo_update", "double_backward")
CLASSES, LEVELS = 1000, (7, 5, 4, 4)
RATE = 1e-3
_STEPS_PER_EPOCH = 10**6


class DoubleBackward(Mvcom):
    """Eqs. 12 and 13 as they are written: differentiated through the virtual update."""

    def _benefit(self, step: int, meta: LevelBatch) -> Tensor:
        batch, config = self.batch, self.head.config
        theta: dict[str, Tensor] = dict(self.backbone.named_parameters())
        residual = torch.zeros_like(self.margin, requires_grad=True)
        with torch.autocast(batch.image.device.type, self.dtype, enabled=self.dtype is not None):
            embedding = functional_call(self.backbone, theta, (batch.image,))
        cosine = F.normalize(embedding.float()) @ F.normalize(self.head.weight.detach()).T
        shift = F.one_hot(batch.label, CLASSES) * (self.margin + residual)[:, None]
        loss = F.cross_entropy(config.scale * (cosine - shift), batch.label)
        gradient = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        ahead = {n: p - RATE * g for (n, p), g in zip(theta.items(), gradient, strict=True)}
        with torch.autocast(batch.image.device.type, self.dtype, enabled=self.dtype is not None):
            there = functional_call(self.backbone, ahead, (meta.image,))
        return -torch.autograd.grad(self.heads(there, meta.level).sum(), residual)[0]


def make_trainer(variant: str, model: ModelConfig, batch_size: int, folder: Path) -> Trainer:
    """A trainer whose meta batches are random images, as its training batches will be."""
    torch.manual_seed(0)
    mesh = Mesh.single()
    backbone = build_backbone(model)
    head = MarginHead(HeadConfig(), CLASSES, model.embedding_size, mesh, 0)
    method = Method(head)
    sections: dict[str, Any] = {
        "optimizer": {"learning_rate": RATE},
        "schedule": {"name": "multistep"},
        "train": {
            "batch_size": batch_size, "epochs": 1, "precision": "bfloat16", "channels_last": True,
        },
    }  # fmt: skip
    config = training_config(**sections)
    if variant != "plain":
        count = batch_size // 2
        image = torch.rand(count, 3, model.image_size, model.image_size)
        meta = LevelBatch(
            image.contiguous(memory_format=torch.channels_last),
            torch.stack([torch.randint(0, n, (count,)) for n in LEVELS], dim=1),
        )
        kind = DoubleBackward if variant == "double_backward" else Mvcom
        residual = {"pseudo_update": variant != "mvcom_no_pseudo_update"}
        tuned = {"residual": residual, "meta": {"path": "none"}}
        method = kind(
            FinetuneStageConfig.model_validate(UNREAD | sections | {"finetune": tuned}),
            head,
            backbone,
            torch.full((batch_size,), 0.35),
            heads=VariationHeads(LEVELS, model.embedding_size),
            sign=torch.ones(len(LEVELS)),
            train_level=torch.zeros((batch_size, len(LEVELS)), dtype=torch.int64),
            meta_batches=lambda step: itertools.repeat(meta),
            steps_per_epoch=_STEPS_PER_EPOCH,
        )
    return Trainer(
        config,
        backbone,
        method,
        folder,
        num_images=batch_size,
        steps_per_epoch=_STEPS_PER_EPOCH,
        identity={},
    )


def measure(variant: str, model: ModelConfig, batch_size: int, steps: int) -> dict[str, Any]:
    """Median processor seconds of a step, and the peak of memory above that before the first."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(variant, model, batch_size, Path(folder))
        keep_freed_memory()
        shape = (batch_size, 3, model.image_size, model.image_size)
        batch = Batch(
            torch.randint(0, 256, shape, dtype=torch.uint8),
            torch.randint(0, CLASSES, (batch_size,)),
            torch.arange(batch_size),
        )
        before = memory_mib()
        trainer.method.start(0)
        trainer._model.train()
        seconds = []
        for _ in range(steps + 1):
            started = time.process_time()
            trainer.train_step(batch)
            seconds.append(time.process_time() - started)
        peak = memory_mib()
    return {
        "variant": variant,
        "seconds": float(np.median(seconds[1:])),
        "megabytes": peak - before,
    }


def main() -> None:
    """Measure one variant."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--model", default="small")
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--embedding-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=7)
    given = parser.parse_args()
    model = ModelConfig(
        name=given.model, image_size=given.image_size, embedding_size=given.embedding_size
    )
    print(json.dumps(measure(given.variant, model, given.batch_size, given.steps)))


if __name__ == "__main__":
    main()
