"""ADC's cleaner from end to end, as evidence for the given labels of a target.

Zhang et al., ICCV 2021: a GCN learns on a source with known noise to tell noise from signal, is
brought to the target by meta-supervision, and an adapter sets each class's threshold.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from facetrain.clean.adapter import (
    AdapterConfig,
    ThresholdAdapter,
    class_summary,
    learn_thresholds,
)
from facetrain.clean.cleaner import Cleaner, clean_probability
from facetrain.clean.labelled_set import GraphConfig, LabelledSet
from facetrain.clean.training import MetaConfig, PretrainConfig, adapt, pretrain
from facetrain.core.config import Config
from facetrain.core.errors import CheckpointError
from facetrain.core.log import logger
from facetrain.dist.collectives import broadcast
from facetrain.dist.mesh import Mesh
from facetrain.models.tensor_file import read_tensors, save_tensors

PRETRAINED_FILE = "pretrained.safetensors"
_OF = "facetrain_cleaner"
_SURE = 1e-4


class AdcConfig(Config):
    """The GCN cleaner, its meta-supervision and its threshold adapter."""

    seed: int = Field(0, ge=0)
    """Of the noise that is planted and of the networks that learn from it."""
    graph: GraphConfig = GraphConfig()
    pretrain: PretrainConfig = PretrainConfig()
    meta: MetaConfig = MetaConfig()
    adapter: AdapterConfig = AdapterConfig()


class Adc(NamedTuple):
    """The cleaner, brought to a target, and its thresholds."""

    cleaner: Cleaner
    adapter: ThresholdAdapter | None  # None: every threshold is 0.5

    @torch.no_grad()
    def logit(self, labelled: LabelledSet, mesh: Mesh) -> Tensor:
        """Of each label being right, (num_images,), less its class's threshold; 0 if not judged."""
        graphs = labelled.classes.subset(labelled.large).to(labelled.embedded.device)
        probability = clean_probability(self.cleaner, labelled, mesh)[graphs.row]
        logit = torch.logit(probability, eps=_SURE)
        if self.adapter is not None:
            logit -= self.adapter(class_summary(probability, graphs))[graphs.label]
        return torch.zeros_like(labelled.ones()).index_copy_(0, graphs.row, logit)


def learn_adc(
    config: AdcConfig,
    source: LabelledSet,
    target: LabelledSet,
    out_dir: Path,
    mesh: Mesh,
    digest: str,
) -> Adc:
    """Train on `source`, whose labels are true, and adapt to `target`.

    Args:
        out_dir: the pre-trained cleaner is kept here, and taken up when its `digest` is this one.
        digest: of what it depends on.
    """
    cleaner = pretrained(config, source, out_dir / PRETRAINED_FILE, mesh, digest)
    cleaner = adapt(
        config.meta, cleaner, source, target, config.seed,
        batch_classes=config.pretrain.batch_classes, show=mesh.is_main,
    )  # fmt: skip
    _same_on_every_rank(cleaner, mesh)
    adapter = None
    if config.adapter.num_draws:
        adapter = learn_thresholds(config.adapter, cleaner, source, config.seed, show=mesh.is_main)
    return Adc(cleaner, adapter)


def pretrained(
    config: AdcConfig, source: LabelledSet, path: Path, mesh: Mesh, digest: str
) -> Cleaner:
    """The cleaner after its training on the source, from `path` if it lies there with `digest`."""
    if (cleaner := _taken_up(config, path, digest)) is not None:
        return cleaner.to(mesh.device)
    cleaner = pretrain(config.pretrain, source, config.seed, show=mesh.is_main)
    _same_on_every_rank(cleaner, mesh)
    if mesh.is_main:
        save_tensors(path, cleaner.state_dict(), _OF, {"inputs": digest})
    mesh.barrier()
    return cleaner


def _taken_up(config: AdcConfig, path: Path, digest: str) -> Cleaner | None:
    """The cleaner in `path`, or None where there is none, of other inputs, or a damaged one."""
    if not path.is_file():
        return None
    try:
        state, of = read_tensors(path, _OF)
        if of != {"inputs": digest} or not all(bool(v.isfinite().all()) for v in state.values()):
            return None
        cleaner = Cleaner(config.graph.gcn, torch.zeros(2, len(state["mean"])))
        cleaner.load_state_dict(state)
    except (CheckpointError, RuntimeError, KeyError) as error:
        logger.warning("%s: cannot be read, trained anew; %s", path, error)
        return None
    logger.info("%s: trained before", path)
    return cleaner


def _same_on_every_rank(cleaner: Cleaner, mesh: Mesh) -> None:
    """Rank 0's weights everywhere: sums on a GPU come out in any order."""
    for value in cleaner.state_dict().values():
        value.copy_(broadcast(value, mesh))
