"""A training from its settings to the saved backbone, whatever the stage."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from facetrain.core.errors import ConfigError
from facetrain.core.log import logger
from facetrain.data.batches.loader import Batch, LabelledSource, StepSampler, TrainLoader
from facetrain.data.batches.sampler import TrainSampler
from facetrain.data.dataset import FaceDataset
from facetrain.data.shards.shard_set import OnCorrupt
from facetrain.dist.collectives import gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import Evaluate, Trainer
from facetrain.engine.method import Method
from facetrain.engine.settings import LoopConfig, TrainingConfig
from facetrain.engine.termination import termination
from facetrain.models.weights import BACKBONE_FILE, save_backbone


def make_sampler(config: TrainingConfig, dataset: FaceDataset) -> TrainSampler:
    """The order in which a training sees the images."""
    size = config.train.batch_size
    return TrainSampler(dataset.num_images, size, config.seed, config.sampling, dataset.label)


def train_loader(
    config: TrainingConfig,
    source: LabelledSource,
    sampler: StepSampler,
    mesh: Mesh,
    start_step: int,
    *,
    workers: int,
    on_corrupt: OnCorrupt,
) -> TrainLoader:
    """This rank's batches from a step on, of the training set or of images beside it."""
    return TrainLoader(
        source,
        config.model.image_size,
        sampler,
        rank=mesh.rank,
        world_size=mesh.world_size,
        workers=workers,
        start_step=start_step,
        on_corrupt=on_corrupt,
        pin_memory=mesh.device.type == "cuda",
    )


def warn_of_late(begins: Mapping[str, float], epochs: int) -> None:
    """Name the keys whose effect, so many epochs in, a training of `epochs` ends before."""
    for key, epoch in begins.items():
        if epoch >= epochs:
            logger.warning(
                "%s=%g: the training ends before, at train.epochs=%d", key, epoch, epochs
            )


def _check_passes(config: LoopConfig, mesh: Mesh) -> None:
    """Batch normalisation needs two images a backward pass."""
    share = -(-config.batch_size // mesh.world_size)  # images of a rank
    size = -(-share // config.accumulate)
    if size == 1 or share % size == 1:
        raise ConfigError(
            f"train.accumulate={config.accumulate}: every backward pass must have at least 2 "
            f"images a process, but {config.batch_size} images over {mesh.world_size} processes "
            f"leave a pass with 1; lower it, or change train.batch_size"
        )


def train_backbone(
    config: TrainingConfig,
    dataset: FaceDataset,
    backbone: nn.Module,
    method: Method,
    out_dir: Path,
    *,
    identity: Mapping[str, str],
    evaluate: Evaluate | None,
) -> dict[str, Any]:
    """Train to the end, from the newest checkpoint in `out_dir`, and save the backbone there.

    Args:
        identity: what must not change between a checkpoint and its continuation.
        evaluate: backbone -> {set: verification numbers}, run during and after training.

    Returns:
        The trainer's metrics, `steps`, `num_images`, `num_classes`, `num_skipped`.
    """
    mesh = method.head.mesh
    _check_passes(config.train, mesh)
    schedule, loop = config.schedule, config.train
    begins = {
        "schedule.warmup_epochs": schedule.warmup_epochs,
        "schedule.milestones": max(schedule.milestones, default=0.0),
        "train.margin_warmup_epochs": loop.margin_warmup_epochs,
    }
    warn_of_late(begins, loop.epochs)
    sampler = make_sampler(config, dataset)
    loader: TrainLoader | None = None

    def batches(start_step: int) -> Iterable[Batch]:
        nonlocal loader
        loader = train_loader(
            config, dataset, sampler, mesh, start_step,
            workers=config.data.workers, on_corrupt=config.data.on_corrupt,
        )  # fmt: skip
        return loader

    trainer = Trainer(
        config,
        backbone,
        method,
        out_dir,
        num_images=dataset.num_images,
        steps_per_epoch=sampler.steps_per_epoch,
        identity=identity,
        evaluate=evaluate,
    )
    with termination() as asked:
        metrics = trainer.fit(batches, asked)
    if mesh.is_main:
        save_backbone(backbone, config.model.network(), out_dir / BACKBONE_FILE)
    return metrics | {
        "steps": trainer.step,
        "num_images": dataset.num_images,
        "num_classes": dataset.num_classes,
        "num_skipped": sum(gather_objects(loader.num_skipped if loader else 0, mesh)),
    }
