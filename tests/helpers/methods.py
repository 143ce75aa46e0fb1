"""Tiny runs of each robust method, for the tests of one process and of many."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from helpers.engine import NUM_CLASSES, NUM_IMAGES, images
from torch import nn

from facetrain.data.augment import AugmentConfig
from facetrain.data.loader import Batch
from facetrain.data.sampler import TrainSampler
from facetrain.dist.mesh import Mesh
from facetrain.engine.method import Method
from facetrain.heads.margin_head import MarginHead
from facetrain.methods.correction import CorrectionConfig, CorrectionMethod
from facetrain.methods.l2b import L2bConfig, L2bMethod
from facetrain.methods.nal import NalConfig, NalMethod
from facetrain.methods.superloss import SuperLossConfig, SuperLossMethod

STEPS_PER_EPOCH = 5
NUM_TRUSTED = 12
METHODS: dict[str, dict[str, Any]] = {
    "superloss": {"name": "superloss"},
    "superloss log C": {"name": "superloss", "tau": "log_classes", "lam": 0.3},
    "nal": {"name": "nal", "attention": "branch", "warmup_epochs": 0.4, "boost": 2.0},
    "nal at rest": {"name": "nal", "warmup_epochs": 0},
    "nal with targets": {
        "name": "nal", "attention": "branch", "warmup_epochs": 0, "boost": 10.0,
        "targets": {"count": 3, "memory": 0.5},
    },
    "correction": {"name": "correction", "warmup_epochs": 0.4},
    "l2b": {"name": "l2b", "trusted": ".", "batch_size": 6, "warmup_epochs": 0.2},
    "l2b now and then": {
        "name": "l2b", "trusted": ".", "batch_size": 6, "warmup_epochs": 0, "every": 3,
        "normalisation": "softmax", "temperature": 0.1,
    },
}  # fmt: skip


def trusted_batches(start: int, mesh: Mesh) -> Iterator[Batch]:
    """Batches of six of the first twelve images, whose labels are trusted."""
    image, label = images()
    sampler = TrainSampler(NUM_TRUSTED, 6, seed=9)
    while True:
        rows = torch.from_numpy(sampler.rank_rows(start, mesh.rank, mesh.world_size))
        yield Batch(image[rows], torch.where(rows < 0, -1, label[rows]), rows)
        start += 1


def make(options: dict[str, Any], folder: Path) -> Callable[[MarginHead, nn.Module], Method]:
    """(head, backbone) -> the method, for `engine.make_trainer`."""
    folder.mkdir(parents=True, exist_ok=True)

    def method(head: MarginHead, backbone: nn.Module) -> Method:
        assert head.num_classes == NUM_CLASSES
        if options["name"] == "superloss":
            return SuperLossMethod(
                SuperLossConfig(**options), head, head.mesh, steps_per_epoch=STEPS_PER_EPOCH
            )
        if options["name"] == "correction":
            return CorrectionMethod(CorrectionConfig(**options), head, STEPS_PER_EPOCH)
        if options["name"] == "nal":
            return NalMethod(
                NalConfig.model_validate(options),
                head,
                head.mesh,
                label=images()[1],
                steps_per_epoch=STEPS_PER_EPOCH,
                folder=folder,
            )
        hold_out = options.get("hold_out", False)
        return L2bMethod(
            L2bConfig(**options),
            head,
            backbone,
            head.mesh,
            batches=lambda start: trusted_batches(start, head.mesh),
            augment_config=AugmentConfig(flip_probability=0.5),
            held_out=torch.arange(NUM_IMAGES) < (NUM_TRUSTED if hold_out else 0),
            steps_per_epoch=STEPS_PER_EPOCH,
            seed=4,
        )

    return method
