"""Which method a recipe asks for, what it may be combined with, and how it is built."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from facetrain.core.errors import ConfigError
from facetrain.core.rng import derive_seed
from facetrain.data.batches.loader import TrainLoader
from facetrain.data.batches.sampler import TrainSampler
from facetrain.data.dataset import FaceDataset
from facetrain.data.subset import trusted_images
from facetrain.dist.mesh import Mesh
from facetrain.engine.method import Method
from facetrain.engine.settings import LoopConfig, TrainingConfig
from facetrain.engine.training import make_sampler, train_loader, warn_of_late
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.methods.l2b import L2bConfig, L2bMethod, Trusted
from facetrain.methods.nal import NalConfig, NalMethod
from facetrain.methods.superloss import SuperLossConfig, SuperLossMethod

RobustConfig = Annotated[SuperLossConfig | NalConfig | L2bConfig, Field(discriminator="name")]
"""One of the methods; two that weigh the same samples down are never stacked."""


def check_combination(robust: RobustConfig | None, head: HeadConfig, loop: LoopConfig) -> None:
    """Refuse what the formulas do not cover.

    Raises:
        ValueError: sampled negatives where a probability over all classes is needed; a batch that
            comes in pieces where its weights are normalised as a whole, or unclipped gradients
            where that may give all weight to a few samples.
    """
    judges_by_dominant = isinstance(robust, SuperLossConfig | NalConfig) and robust.dominant
    if judges_by_dominant and head.num_centres == 1:
        raise ValueError(
            "robust.dominant judges by a class's dominant sub-centre, but head.num_centres=1; "
            "set that to 3, or leave robust.dominant out"
        )
    if isinstance(robust, NalConfig | L2bConfig) and head.sample_rate < 1:
        raise ValueError(
            f"robust.name={robust.name} needs the probabilities of all classes, but "
            f"head.sample_rate={head.sample_rate} leaves classes out; set it to 1, or take "
            "robust.name=superloss"
        )
    if isinstance(robust, L2bConfig) and loop.accumulate > 1:
        raise ValueError(
            "robust.name=l2b normalises its weights over the whole batch, but "
            f"train.accumulate={loop.accumulate} cuts it; set it to 1"
        )
    if isinstance(robust, L2bConfig) and loop.clip_norm is None:
        raise ValueError(
            "robust.name=l2b may give a batch's whole weight to a few samples and then collapses "
            "without train.clip_norm; set it, e.g. to 0.8"
        )


def make_method(
    robust: RobustConfig | None,
    config: TrainingConfig,
    head: MarginHead,
    backbone: nn.Module,
    dataset: FaceDataset,
    out_dir: Path,
) -> Method:
    """The method of `robust` in a training of `config`; plain training for None.

    Raises:
        ConfigError: fewer trusted images than one look-ahead needs, or too many to hold out.
        DataError: trusted images of none of the identities.
    """
    if robust is not None:
        begins = {"robust.warmup_epochs": robust.warmup_epochs}
        targets = robust.targets if isinstance(robust, NalConfig) else None
        if targets is not None:
            begins["robust.targets.warmup_epochs"] = targets.warmup_epochs
            begins["robust.targets.every_epochs"] = targets.every_epochs - 1
        warn_of_late(begins, config.train.epochs)
    steps_per_epoch = make_sampler(config, dataset).steps_per_epoch
    label = torch.from_numpy(dataset.label)
    return method_of(
        robust, head, backbone, label, steps_per_epoch, out_dir,
        lambda l2b: _trusted(l2b, config, dataset, head.mesh),
    )  # fmt: skip


def method_of(
    robust: RobustConfig | None,
    head: MarginHead,
    backbone: nn.Module,
    label: Tensor,
    steps_per_epoch: int,
    folder: Path,
    trusted: Callable[[L2bConfig], Trusted],
) -> Method:
    """The method of `robust`; plain training for None.

    Args:
        label: (N,) of the training images.
        folder: of the training.
        trusted: asked where the method looks ahead.
    """
    if isinstance(robust, SuperLossConfig):
        return SuperLossMethod(robust, head, steps_per_epoch)
    if isinstance(robust, NalConfig):
        return NalMethod(robust, head, label, steps_per_epoch, folder)
    if isinstance(robust, L2bConfig):
        return L2bMethod(robust, head, backbone, trusted(robust), steps_per_epoch)
    return Method(head)


def _trusted(
    robust: L2bConfig, config: TrainingConfig, dataset: FaceDataset, mesh: Mesh
) -> Trusted:
    """The images that the overlay `robust.trusted` keeps."""
    trusted = trusted_images(dataset, robust.trusted)
    held_out = torch.from_numpy(np.isin(dataset.row, trusted.row))
    if not robust.hold_out:
        held_out = torch.zeros_like(held_out)
    elif 2 * int(held_out.sum()) > len(held_out):
        raise ConfigError(
            f"{robust.trusted}: trusts {int(held_out.sum())} of the {len(held_out)} training "
            "images, and trusted images are not trained on; name a few of each identity, or set "
            "robust.hold_out=false to train on them too"
        )
    if trusted.num_images < robust.batch_size:
        raise ConfigError(
            f"{robust.trusted}: a look-ahead takes {robust.batch_size} trusted images, but there "
            f"are {trusted.num_images}; set robust.batch_size to at most that"
        )
    own_seed = derive_seed(config.seed, "trusted images")
    sampler = TrainSampler(trusted.num_images, robust.batch_size, own_seed)

    def batches(start: int) -> TrainLoader:
        return train_loader(
            config, trusted, sampler, mesh, start,
            workers=min(config.data.workers, 1), on_corrupt=config.data.on_corrupt,
        )  # fmt: skip

    return Trusted(batches, config.augment, own_seed, held_out)
