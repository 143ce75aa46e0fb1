"""Tiny runs of each robust method, for the tests of one process and of many."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from helpers.engine import NUM_CLASSES, NUM_IMAGES, images
from pydantic import TypeAdapter
from torch import nn

from facetrain.data.batches.augment import AugmentConfig
from facetrain.data.batches.loader import Batch
from facetrain.data.batches.sampler import TrainSampler
from facetrain.dist.mesh import Mesh
from facetrain.engine.method import Method
from facetrain.heads.margin_head import MarginHead
from facetrain.methods.choose import RobustConfig, method_of
from facetrain.methods.l2b import L2bConfig, Trusted

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
    "l2b": {
        "name": "l2b", "trusted": ".", "batch_size": 6, "warmup_epochs": 0.2, "hold_out": False,
    },
    "l2b now and then": {
        "name": "l2b", "trusted": ".", "batch_size": 6, "warmup_epochs": 0, "every": 3,
        "normalisation": "softmax", "temperature": 0.1, "hold_out": False,
    },
}  # fmt: skip


def trusted_batches(start: int, mesh: Mesh) -> Iterator[Batch]:
    """Batches of six of the first twelve images, whose labels are trusted."""
    image, label = images()
    sampler = TrainSampler(NUM_TRUSTED, 6, seed=9)
    for number in itertools.count(start):
        rows = torch.from_numpy(sampler.rank_rows(number, mesh.rank, mesh.world_size))
        yield Batch(image[rows], torch.where(rows < 0, -1, label[rows]), rows)


def make(options: dict[str, Any], folder: Path) -> Callable[[MarginHead, nn.Module], Method]:
    """(head, backbone) -> the method, for `engine.make_trainer`."""
    folder.mkdir(parents=True, exist_ok=True)
    robust = TypeAdapter[RobustConfig](RobustConfig).validate_python(options)

    def method(head: MarginHead, backbone: nn.Module) -> Method:
        assert head.num_classes == NUM_CLASSES

        def trusted(l2b: L2bConfig) -> Trusted:
            held_out = torch.arange(NUM_IMAGES) < (NUM_TRUSTED if l2b.hold_out else 0)
            augment = AugmentConfig(flip_probability=0.5)
            return Trusted(lambda start: trusted_batches(start, head.mesh), augment, 4, held_out)

        return method_of(robust, head, backbone, images()[1], STEPS_PER_EPOCH, folder, trusted)

    return method
