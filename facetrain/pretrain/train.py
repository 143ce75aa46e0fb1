"""Stage `train`: a data set and a recipe -> `backbone.safetensors`.

The folder also keeps `checkpoints/` (with the class centres, for later fine-tuning), `log.jsonl`,
`tensorboard/`, and `manifest.json` once finished.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facetrain.core.artifact import Artifact
from facetrain.core.config import Config, config_digest
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.augment import AugmentConfig
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.loader import Batch, TrainLoader
from facetrain.data.sampler import TrainSampler
from facetrain.dist.collectives import gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.engine.loop import Evaluate, LoopConfig, Trainer
from facetrain.engine.method import Method
from facetrain.engine.optim import OptimizerConfig, Optimizers
from facetrain.engine.schedule import ScheduleConfig
from facetrain.heads.margin_head import HeadConfig, MarginHead
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.weights import BACKBONE_FILE, save_backbone


class TrainConfig(Config):
    """Everything the weights depend on."""

    seed: int = 0
    data: DataConfig
    model: ModelConfig
    head: HeadConfig = HeadConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: LoopConfig


def _identity(config: TrainConfig, dataset: FaceDataset) -> Mapping[str, str]:
    """What must not change between a checkpoint and its continuation."""
    loop = config.train
    fixed = ("epochs", "batch_size", "accumulate", "clip_norm", "margin_warmup_epochs")
    return {
        "seed": str(config.seed),
        "data set or overlay": dataset.fingerprint,
        "model": config_digest(config.model),
        "head": config_digest(config.head),
        "augment": config_digest(config.augment),
        "optimizer": config_digest(config.optimizer),
        "schedule": config_digest(config.schedule),
        **{f"train.{name}": str(getattr(loop, name)) for name in fixed},
    }


def run(
    config: TrainConfig,
    dataset: FaceDataset,
    out_dir: Path,
    mesh: Mesh,
    evaluate: Evaluate | None = None,
) -> Artifact:
    """Train a backbone on `dataset`; continues from the newest checkpoint in `out_dir`.

    Args:
        evaluate: backbone -> {set: verification numbers}, run during and after training.

    Raises:
        UserError: too few identities or images, diverging losses, a foreign checkpoint.
    """
    if dataset.num_classes < 2:
        raise DataError(
            f"{config.data.path}: training needs at least 2 identities, the data set (with its "
            f"overlays) has {dataset.num_classes}; give more data or another overlay"
        )

    def work() -> dict[str, Any]:
        logger.info(
            "training %s on %d images of %d identities (%d with one image)",
            config.model.name,
            dataset.num_images,
            dataset.num_classes,
            int((np.bincount(dataset.label) == 1).sum()),
        )
        loader: TrainLoader | None = None

        def batches(start_step: int) -> Iterable[Batch]:
            nonlocal loader
            loader = TrainLoader(
                dataset,
                config.model.image_size,
                config.train.batch_size,
                config.seed,
                rank=mesh.rank,
                world_size=mesh.world_size,
                workers=config.data.workers,
                start_step=start_step,
                on_corrupt=config.data.on_corrupt,
                pin_memory=mesh.device.type == "cuda",
            )
            return loader

        torch.manual_seed(config.seed)
        backbone = build_backbone(config.model).to(mesh.device)
        size = config.model.embedding_size
        head = MarginHead(config.head, dataset.num_classes, size, mesh, config.seed)
        method = Method(head)
        sampler = TrainSampler(dataset.num_images, config.train.batch_size, config.seed)
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
            identity=_identity(config, dataset),
            evaluate=evaluate,
        )
        metrics = trainer.fit(batches)
        if mesh.is_main:
            save_backbone(backbone, config.model, out_dir / BACKBONE_FILE)
        return metrics | {
            "steps": trainer.step,
            "num_images": dataset.num_images,
            "num_classes": dataset.num_classes,
            "num_skipped": sum(gather_objects(loader.num_skipped if loader else 0, mesh)),
        }

    return run_stage("train", config, {"data": dataset.fingerprint}, out_dir, mesh, work)
