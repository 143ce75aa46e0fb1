"""What every stage that trains a backbone has in common: its settings, and the run itself."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import nn

from facetrain.core.config import Config
from facetrain.core.errors import ConfigError
from facetrain.data.augment import AugmentConfig
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.loader import Batch, TrainLoader
from facetrain.data.sampler import SamplingConfig, TrainSampler
from facetrain.dist.collectives import gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import Evaluate, LoopConfig, Trainer
from facetrain.engine.method import Method
from facetrain.engine.optim import OptimizerConfig, Optimizers
from facetrain.engine.schedule import ScheduleConfig
from facetrain.engine.termination import termination
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.backbone import TrainedModelConfig
from facetrain.models.weights import BACKBONE_FILE, save_backbone


class TrainingConfig(Config):
    """What the weights depend on, whatever is trained."""

    seed: int = Field(0, ge=0)
    """Of everything random."""
    data: DataConfig
    """The data set."""
    sampling: SamplingConfig = SamplingConfig()
    """Which images an epoch draws."""
    model: TrainedModelConfig
    """The backbone, and how its training begins."""
    head: HeadConfig = HeadConfig()
    """The margin softmax."""
    augment: AugmentConfig = AugmentConfig()
    """How images are changed in training."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """What moves the weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate moves."""
    train: LoopConfig
    """How long to train."""


def make_sampler(config: TrainingConfig, dataset: FaceDataset) -> TrainSampler:
    """The order in which a training sees the images."""
    size = config.train.batch_size
    return TrainSampler(dataset.num_images, size, config.seed, config.sampling, dataset.label)


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
    head: MarginHead,
    method: Method,
    mesh: Mesh,
    *,
    out_dir: Path,
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
    _check_passes(config.train, mesh)
    sampler = make_sampler(config, dataset)
    loader: TrainLoader | None = None

    def batches(start_step: int) -> Iterable[Batch]:
        nonlocal loader
        loader = TrainLoader(
            dataset,
            config.model.image_size,
            sampler,
            rank=mesh.rank,
            world_size=mesh.world_size,
            workers=config.data.workers,
            start_step=start_step,
            on_corrupt=config.data.on_corrupt,
            pin_memory=mesh.device.type == "cuda",
        )
        return loader

    trainer = Trainer(
        config.train,
        config.schedule,
        config.augment,
        seed=config.seed,
        backbone=backbone,
        method=method,
        optimizers=Optimizers(config.optimizer, backbone, head, method.trained),
        mesh=mesh,
        out_dir=out_dir,
        num_images=dataset.num_images,
        steps_per_epoch=sampler.steps_per_epoch,
        identity=identity,
        evaluate=evaluate,
        settings=config.model_dump(mode="json"),
    )
    with termination() as told:
        metrics = trainer.fit(batches, told)
    if mesh.is_main:
        save_backbone(backbone, config.model.network(), out_dir / BACKBONE_FILE)
    return metrics | {
        "steps": trainer.step,
        "num_images": dataset.num_images,
        "num_classes": dataset.num_classes,
        "num_skipped": sum(gather_objects(loader.num_skipped if loader else 0, mesh)),
    }
