"""Stage `train`: a data set and a recipe -> `backbone.safetensors`.

The folder also keeps `checkpoints/` (with the class centres, for later fine-tuning), `log.jsonl`,
`tensorboard/`, and `manifest.json` once finished.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import model_validator

from facetrain.core.artifact import Artifact, fingerprint
from facetrain.core.config import config_digest
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import overlay_file
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.engine.loop import Evaluate
from facetrain.engine.settings import TrainingConfig
from facetrain.engine.training import train_backbone
from facetrain.heads.margin_head import MarginHead
from facetrain.methods.choose import RobustConfig, check_combination, make_method
from facetrain.methods.l2b import L2bConfig
from facetrain.methods.nal import NalConfig
from facetrain.pretrain.initial_weights import initial_backbone, weights_input


class TrainConfig(TrainingConfig):
    """Everything the weights depend on."""

    robust: RobustConfig | None = None
    """A method against noisy labels; plain training without it."""

    @model_validator(mode="after")
    def _robust_fits(self) -> "TrainConfig":
        check_combination(self.robust, self.head, self.train)
        estimates = isinstance(self.robust, NalConfig) and self.robust.targets is not None
        if estimates and self.sampling.by != "image":
            raise ValueError(
                f"robust.targets averages over epochs that see every image once, but sampling.by="
                f"{self.sampling.by} repeats some; set it to image, or remove robust.targets"
            )
        return self


def _without_files(robust: RobustConfig) -> RobustConfig:
    """Without the path of the trusted images: which they are matters (see `_trusted`)."""
    if isinstance(robust, L2bConfig):
        return robust.model_copy(update={"trusted": Path()})
    return robust


def _trusted(config: TrainConfig) -> dict[str, str]:
    if isinstance(config.robust, L2bConfig):
        return {"trusted images": fingerprint(overlay_file(config.robust.trusted))}
    return {}


def _identity(config: TrainConfig, dataset: FaceDataset) -> Mapping[str, str]:
    """What must not change between a checkpoint and its continuation."""
    loop = config.train
    fixed = ("epochs", "batch_size", "accumulate", "clip_norm", "margin_warmup_epochs")
    return {
        "seed": str(config.seed),
        "data set or overlay": dataset.fingerprint,
        "model": config_digest(config.model.network()),
        "model.weights": weights_input(config).get("weights", ""),
        "model.freeze or centres": f"{config.model.freeze} {config.model.centres}",
        "head": config_digest(config.head),
        "sampling": config_digest(config.sampling),
        "augment": config_digest(config.augment),
        "optimizer": config_digest(config.optimizer),
        "schedule": config_digest(config.schedule),
        "robust": config_digest(_without_files(config.robust)) if config.robust else "",
        **_trusted(config),
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
            f"{config.data.where}: training needs at least 2 identities, the data set (with its "
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
        torch.manual_seed(config.seed)
        size = config.model.embedding_size
        head = MarginHead(config.head, dataset.num_classes, size, mesh, config.seed)
        backbone = initial_backbone(config, dataset, head, mesh, out_dir)
        method = make_method(config.robust, config, head, backbone, dataset, out_dir)
        return train_backbone(
            config,
            dataset,
            backbone,
            method,
            out_dir,
            identity=_identity(config, dataset),
            evaluate=evaluate,
        )

    inputs = {"data": dataset.fingerprint, **_trusted(config), **weights_input(config)}
    return run_stage("train", config, inputs, out_dir, mesh, work)
