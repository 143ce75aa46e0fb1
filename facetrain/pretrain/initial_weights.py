"""Where a training from given weights begins: the network of a file, a classifier of its means."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facetrain.core.artifact import fingerprint
from facetrain.core.log import logger
from facetrain.core.progress import progress
from facetrain.core.run_folder import CHECKPOINTS
from facetrain.data.batches.loader import OrderedLoader
from facetrain.data.dataset import FaceDataset
from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.engine.inference import embed_images
from facetrain.engine.settings import TrainingConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.backbone import build_backbone
from facetrain.models.freeze import freeze
from facetrain.models.weights import BACKBONE_FILE, load_into

_BATCH = 256


def weights_input(config: TrainingConfig) -> Mapping[str, str]:
    """Name -> fingerprint of the weights that a training begins with; {} from scratch."""
    path = config.model.weights
    if path is None:
        return {}
    file = path / BACKBONE_FILE if path.is_dir() else path
    return {"weights": fingerprint(file) if file.exists() else "missing"}


def initial_backbone(
    config: TrainingConfig, dataset: FaceDataset, head: MarginHead, mesh: Mesh, out_dir: Path
) -> nn.Module:
    """The backbone as the training begins with it; also sets the head's first centres.

    A collective call. Where `out_dir` holds a checkpoint, which will replace the centres, they are
    not computed.

    Raises:
        CheckpointError: weights of another network, or that cannot be read.
        ConfigError: parts to freeze that the network does not have.
    """
    model = config.model
    backbone = build_backbone(model.network()).to(mesh.device)
    if model.weights is not None:
        load_into(backbone, model.weights, model.network())
        logger.info("beginning with the weights of %s", model.weights)
        resumes = any((out_dir / CHECKPOINTS).glob("step_*"))
        if model.centres == "class_means" and not resumes:
            sums = _class_sums(config, dataset, backbone, mesh)
            _set_centres(head, sums)
    freeze(backbone, model.freeze)
    return backbone


@torch.no_grad()
def _class_sums(
    config: TrainingConfig, dataset: FaceDataset, backbone: nn.Module, mesh: Mesh
) -> Tensor:
    """(num_classes, D) sums of the unit embeddings of each class's images, on every rank."""
    start, stop = shard_range(dataset.num_images, mesh.rank, mesh.world_size)
    loader = OrderedLoader(
        dataset, config.model.image_size, _BATCH, start, stop,
        workers=config.data.workers, on_corrupt=config.data.on_corrupt,
    )  # fmt: skip
    sums = torch.zeros(dataset.num_classes, config.model.embedding_size)
    label = torch.from_numpy(dataset.label)
    backbone.eval()
    for batch in progress(loader, "class means", unit="batch", enabled=mesh.is_main):
        present = batch.label >= 0
        embedding = embed_images(backbone, batch.image, mesh.device, flip=False)
        rows = label[batch.index[present]]
        sums.index_add_(0, rows, F.normalize(embedding[present]))
    backbone.train()
    return all_reduce_sum(sums.to(mesh.device), mesh)


@torch.no_grad()
def _set_centres(head: MarginHead, sums: Tensor) -> None:
    """Point each class's centres along its mean, as long as they were drawn.

    Further sub-centres begin beside it: their random direction counts a tenth.
    """
    own = F.normalize(sums[head.start : head.stop])  # (C, D)
    drawn = head.weight
    length = torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)
    if drawn.ndim == 2:
        head.weight.copy_(own * length)
        return
    offset = F.normalize(drawn, dim=-1) * 0.1  # (C, K, D)
    offset[:, 0] = 0
    head.weight.copy_(F.normalize(own[:, None] + offset, dim=-1) * length)
