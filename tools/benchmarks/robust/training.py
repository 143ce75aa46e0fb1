"""A training of any images or features by the product: facetrain's trainer, methods and optimisers.

What is here joins tensors to them: batches of a `Task`, a method by its recipe section, a score.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from facetrain.core.rng import derive_seed
from facetrain.data.batches.augment import AugmentConfig
from facetrain.data.batches.loader import Batch
from facetrain.data.batches.sampler import TrainSampler
from facetrain.data.sample_history import read_samples
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import Trainer
from facetrain.engine.method import Method
from facetrain.engine.settings import TrainingConfig
from facetrain.engine.termination import Termination
from facetrain.heads.margin_head import MarginHead
from facetrain.methods import choose
from facetrain.methods.choose import RobustConfig
from facetrain.methods.l2b import L2bConfig, Trusted
from tools.benchmarks.robust.networks import NumberHead
from tools.benchmarks.robust.tasks import Task

Augment = Callable[[Tensor], Tensor]
_NEVER = 1 << 30


@dataclass(frozen=True)
class Record:
    """What a training leaves."""

    seen: dict[str, NDArray[np.float32]]
    """(E, N) each, of the epochs that have it; NaN where an epoch passed a sample over."""
    test_score: float
    validation_score: float


def train(
    backbone: nn.Module,
    head: MarginHead,
    robust: dict[str, Any] | None,
    task: Task,
    config: TrainingConfig,
    seed: int,
    *,
    augment: Augment | None = None,
    at_most: float = np.inf,
) -> Record:
    """Train backbone and head in place.

    Args:
        backbone: (B, ...) -> (B, D).
        robust: the recipe's section of that name; plain training for None.
        task: its test and validation images are scored once, at the end.
        at_most: what one error of a regression counts on the validation images.
    """
    device = task.x.device
    mesh = Mesh.single(device.type)  # type: ignore[arg-type]
    backbone.to(device)
    head.to(device)
    head.mesh = mesh
    size = min(config.train.batch_size, len(task.x))
    steps = TrainSampler(len(task.x), size, seed).steps_per_epoch
    # Only the end is looked at, and a method that collapses has collapsed.
    quiet = {"log_every": _NEVER, "checkpoint_every": _NEVER, "divergence_factor": 1e9}
    loop = config.train.model_copy(update=quiet | {"batch_size": size})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        method = method_of(robust, backbone, head, task, seed, steps, out, augment)
        trainer = Trainer(
            config.model_copy(update={"seed": seed, "train": loop}),
            backbone,
            method,
            out,
            num_images=len(task.x),
            steps_per_epoch=steps,
            identity={},
        )
        trainer.fit(
            lambda start: batches(task.x, task.label, size, seed, start, augment), Termination()
        )
        seen = {name: one.values for name, one in read_samples(out).items()}
    backbone.eval()
    return Record(
        seen,
        score(backbone, head, task.test_x, task.test_label),
        score(backbone, head, task.validation_x, task.validation_label, at_most),
    )


def method_of(
    robust: dict[str, Any] | None,
    backbone: nn.Module,
    head: MarginHead,
    task: Task,
    seed: int,
    steps_per_epoch: int,
    folder: Path,
    augment: Augment | None = None,
) -> Method:
    """The product's method of a recipe section; L2B's trusted images are the task's."""
    config: RobustConfig | None = None
    if robust is not None:
        section = robust | ({"trusted": folder} if robust["name"] == "l2b" else {})
        config = TypeAdapter[RobustConfig](RobustConfig).validate_python(section)
    size = len(task.trusted_x)
    if isinstance(config, L2bConfig) and config.batch_size > size:
        config = config.model_copy(update={"batch_size": size})

    def trusted(l2b: L2bConfig) -> Trusted:
        of_task = task.trusted_x, task.trusted_label, l2b.batch_size
        own = derive_seed(seed, "trusted")
        held_out = torch.zeros(len(task.x), dtype=torch.bool)
        return Trusted(
            lambda start: batches(*of_task, own, start, augment), AugmentConfig(), own, held_out
        )

    label = task.label.cpu()
    return choose.method_of(config, head, backbone, label, steps_per_epoch, folder, trusted)


def batches(
    x: Tensor, label: Tensor, size: int, seed: int, start: int, augment: Augment | None
) -> Iterator[Batch]:
    """Batches of floats from step `start` on, without end, in the product's order."""
    sampler = TrainSampler(len(x), size, seed)
    for step in itertools.count(start):
        rows = torch.from_numpy(sampler.rank_rows(step, 0, 1)).to(x.device)
        torch.manual_seed(derive_seed(seed, "augment", step))
        images = x[rows]
        yield Batch(images if augment is None else augment(images), label[rows], rows)


@torch.no_grad()
def score(
    backbone: nn.Module, head: MarginHead, x: Tensor, label: Tensor, at_most: float = np.inf
) -> float:
    """Accuracy; of a number minus the mean absolute error, each counting `at_most` so much."""
    embedding = torch.cat([backbone(part) for part in torch.split(x, 1000)])
    if isinstance(head, NumberHead):
        error = (head.logits(embedding)[:, 0] - label).abs()
        return -error.clamp_max(at_most).double().mean().item()
    return (head.nearest(embedding, 1)[1][:, 0] == label).double().mean().item()
