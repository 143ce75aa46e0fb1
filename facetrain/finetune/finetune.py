"""Stage `finetune`: a trained folder and a recipe -> a backbone with margins learned by MvCoM.

Starts from the newest checkpoint of a `train` folder, backbone and class centres: the supplement
both "discards the classifier" and "keeps it", and at a learning rate of 1e-3 new centres would not
converge. The folder gets what `train` leaves, and `samples/` holds every image's margin and
residual of each epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facetrain.core.artifact import Artifact, fingerprint, read_artifact
from facetrain.core.config import config_digest
from facetrain.core.errors import ConfigError
from facetrain.core.log import logger
from facetrain.core.run_folder import CHECKPOINTS
from facetrain.data.batches.meta_sampler import MetaSampler
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.variation.labels import VARIATION_FILE, Variations, load_variations
from facetrain.dist.collectives import gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.engine.checkpoint import newest_whole
from facetrain.engine.loop import Evaluate
from facetrain.engine.method import Method
from facetrain.engine.training import make_sampler, train_backbone
from facetrain.finetune.margin_prior import class_margins, variation_margins
from facetrain.finetune.meta_set import (
    LevelBatch,
    MetaSet,
    check_other_people,
    known_people,
    log_contents,
)
from facetrain.finetune.mvcom import Mvcom, PriorMargin
from facetrain.finetune.settings import NUISANCES, FinetuneStageConfig, ResidualConfig
from facetrain.finetune.variation_heads import VariationHeads, fit_heads
from facetrain.heads.margin_head import MarginHead
from facetrain.models.backbone import build_backbone
from facetrain.models.freeze import freeze
from facetrain.models.weights import BACKBONE_FILE


def _check(config: FinetuneStageConfig) -> None:
    if config.finetune.method != "cosface" and config.head.margin not in ("cosface", "combined"):
        raise ConfigError(
            f"head.margin={config.head.margin}: margins of MvCoM are subtracted from the cosine; "
            "take cosface or combined, or finetune.method=cosface to go on as the training did"
        )
    if config.train.margin_warmup_epochs:
        raise ConfigError(
            f"train.margin_warmup_epochs={config.train.margin_warmup_epochs}: must be 0, since "
            "fine-tuning starts from a trained backbone"
        )


def _check_trained(config: FinetuneStageConfig, dataset: FaceDataset, trained: Path) -> None:
    """Refuse a folder that does not fit the recipe and the data."""
    artifact = read_artifact(trained)
    stage = artifact.manifest["stage"] if artifact else None
    if artifact is None or stage not in ("train", "finetune"):
        raise ConfigError(
            f"--from {trained}: must be the folder of a finished training, but is none; give the "
            "--out of `facetrain train`"
        )
    if artifact.manifest["inputs"].get("data") != dataset.fingerprint:
        raise ConfigError(
            f"--from {trained}: must have been trained on {config.data.where} with the same "
            "overlays, since the classifier is kept, but was trained on other data"
        )
    for section, own in (("model", config.model.network()), ("head", config.head)):
        theirs = artifact.manifest["config"].get(section) or {}
        mine = own.model_dump(mode="json")
        # What an older version did not write had today's default.
        unset = type(own).model_fields
        before = {name: theirs.get(name, unset[name].default) for name in mine}
        if before != mine:
            raise ConfigError(
                f"--from {trained}: the recipe's section {section!r} must be what was trained, "
                f"{theirs}, but is {mine}"
            )


def _variations(given: Path | None, data: DataConfig, dataset: FaceDataset) -> Variations:
    whole = load_variations(given or data.folder / VARIATION_FILE, dataset.num_rows)
    return whole.take(dataset.row)


def run(
    config: FinetuneStageConfig,
    dataset: FaceDataset,
    trained: Path,
    out_dir: Path,
    mesh: Mesh,
    evaluate: Evaluate | None = None,
) -> Artifact:
    """Fine-tune what is in `trained` on `dataset`; continues from a checkpoint in `out_dir`.

    Args:
        trained: a finished `train` (or `finetune`) folder with its checkpoints.
        evaluate: backbone -> {set: verification numbers}, run during and after training.

    Raises:
        UserError: a folder or labels that do not fit, people in both sets, diverging losses.
    """
    _check(config)
    _check_trained(config, dataset, trained)
    tuned = config.finetune
    inputs = {"data": dataset.fingerprint, "trained": fingerprint(trained / BACKBONE_FILE)}
    meta = tuned.meta if tuned.method == "mvcom" else None
    images = None
    if meta is not None:
        images = FaceDataset.open(meta.path, meta.overlay, meta.on_corrupt)
        inputs["meta"] = images.fingerprint

    def work() -> dict[str, Any]:
        torch.manual_seed(config.seed)
        backbone = build_backbone(config.model.network()).to(mesh.device)
        size = config.model.embedding_size
        head = MarginHead(config.head, dataset.num_classes, size, mesh, config.seed)
        start = {f"backbone/{n}": value for n, value in backbone.state_dict().items()}
        of_head = {f"head/{name}": value for name, value in head.tensors().items()}
        checkpoint = newest_whole(trained / CHECKPOINTS, mesh)
        from facetrain.dist.distributed_checkpoint import load_state  # a second to import

        load_state({**start, **of_head}, checkpoint, mesh)
        if config.train.channels_last:
            backbone.to(memory_format=torch.channels_last)
        freeze(backbone, config.model.freeze)
        method, numbers = _method(config, dataset, images, backbone, head)
        trained_further = train_backbone(
            config,
            dataset,
            backbone,
            method,
            out_dir,
            identity=_identity(config, inputs),
            evaluate=evaluate,
        )
        return trained_further | numbers

    logger.info("fine-tuning %s by %s", trained, tuned.method)
    return run_stage("finetune", config, inputs, out_dir, mesh, work)


def _method(
    config: FinetuneStageConfig,
    dataset: FaceDataset,
    meta_images: FaceDataset | None,
    backbone: torch.nn.Module,
    head: MarginHead,
) -> tuple[Method, dict[str, Any]]:
    """The method, and numbers about its start for the manifest."""
    tuned = config.finetune
    if tuned.method == "cosface":
        return Method(head), {}
    if tuned.method == "class_margin" and tuned.prior == "none":
        logger.warning(
            "finetune.method=class_margin is the prior alone, but finetune.prior=none: every image "
            "has the head's margin, as with cosface; set finetune.prior"
        )
    prior = torch.from_numpy(_prior(config, dataset)).float().to(head.mesh.device)  # (N,)
    if tuned.method == "class_margin":
        return PriorMargin(head, prior, tuned.max_margin), {}
    assert meta_images is not None
    return _mvcom(config, dataset, meta_images, backbone, head, prior)


def _mvcom(
    config: FinetuneStageConfig,
    dataset: FaceDataset,
    meta_images: FaceDataset,
    backbone: torch.nn.Module,
    head: MarginHead,
    prior: torch.Tensor,
) -> tuple[Method, dict[str, Any]]:
    tuned, mesh = config.finetune, head.mesh
    meta, train_level = _open_meta(config, dataset, meta_images, mesh)
    workers = min(config.data.workers, 1)
    heads, accuracy = _fitted_heads(config, meta, backbone, head, workers)
    sign = signs(tuned.residual, tuple(meta.names))
    sampler = make_sampler(config, dataset)
    chosen = MetaSampler(
        meta.source.label,
        meta.level(),
        train_level,
        sampler,
        tuned.meta_batch_size or max(2, config.train.batch_size // 2),
        config.seed,
        tuned.sampling,
        tuned.most_per_identity,
        tuned.plant,
    )

    def meta_batches(step: int) -> Iterator[LevelBatch]:
        return meta.batches(chosen, workers, step)

    method = Mvcom(
        config,
        head,
        backbone,
        prior,
        heads=heads,
        sign=sign.to(mesh.device),
        train_level=torch.from_numpy(train_level).to(mesh.device),
        meta_batches=meta_batches,
        steps_per_epoch=sampler.steps_per_epoch,
    )
    return method, {
        "num_meta_images": meta.source.num_images,
        "num_meta_identities": meta.num_identities,
        "variation_accuracy": accuracy,
    }


def _fitted_heads(
    config: FinetuneStageConfig,
    meta: MetaSet,
    backbone: torch.nn.Module,
    head: MarginHead,
    workers: int,
) -> tuple[VariationHeads, dict[str, float]]:
    """The variation heads before the first step, and their accuracy by factor.

    Takes out of `meta` the people who are trained already.
    """
    tuned, mesh = config.finetune, head.mesh
    assert tuned.meta is not None
    backbone.eval()
    embedding, level, identity = meta.fit_sample(backbone, workers)
    if not tuned.meta.same_numbering:
        centre = head.weight.flatten(0, -2)
        similar = known_people(embedding, identity, centre, tuned.meta.duplicate_similarity)
        found = sorted({one for rank in gather_objects(similar.tolist(), mesh) for one in rank})
        meta.without(np.array(found, np.int64))
        stays = ~torch.isin(identity, torch.tensor(found, device=identity.device))
        embedding, level = embedding[stays], level[stays]
        logger.info("meta set: left out %d people who look like a trained class", len(found))
    log_contents(meta)
    heads = VariationHeads([len(names) for names in meta.names.values()], embedding.shape[1])
    heads.to(mesh.device)
    fit_heads(
        heads, embedding, level,
        epochs=tuned.head_epochs, learning_rate=tuned.head_fit_rate, seed=config.seed,
    )  # fmt: skip
    accuracy = dict(zip(meta.names, heads.accuracy(embedding, level), strict=True))
    logger.info("variation heads, accuracy on what they were fitted to: %s", accuracy)
    return heads, accuracy


def _prior(config: FinetuneStageConfig, dataset: FaceDataset) -> np.ndarray[Any, Any]:
    """(N,) fixed margin of each training image."""
    tuned, base_margin = config.finetune, config.head.base_margin
    if tuned.prior == "variation":
        level = _variations(tuned.variation, config.data, dataset)
        if tuned.factors:
            level = level.only(tuned.factors, f"{config.data.path}: its variation file")
        return variation_margins(level.table(), base_margin, tuned.prior_spread, tuned.max_margin)
    count = np.bincount(dataset.label, minlength=dataset.num_classes)
    margins = class_margins(count, tuned.prior, base_margin, tuned.max_margin)
    return margins[dataset.label]


def signs(residual: ResidualConfig, factors: Sequence[str]) -> torch.Tensor:
    """Of each factor's variation loss, (K,): -1 where it is to be forgotten."""
    forget = residual.forget
    if forget is None:
        forget = tuple(name for name in NUISANCES if name in factors)
    for factor in forget:
        if factor not in factors:
            raise ConfigError(
                f"finetune.residual.forget: must name factors of the meta set, which are "
                f"{', '.join(factors)}; got {factor!r}"
            )
    return torch.tensor([-1.0 if factor in forget else 1.0 for factor in factors])


def _open_meta(
    config: FinetuneStageConfig, dataset: FaceDataset, images: FaceDataset, mesh: Mesh
) -> tuple[MetaSet, np.ndarray[Any, np.dtype[np.int64]]]:
    """The meta set, and the training images' levels of the same factors (N, K)."""
    tuned = config.finetune
    assert tuned.meta is not None
    if tuned.meta.same_numbering:
        check_other_people(images, dataset)
    variations: Variations | None = None
    only_planted = tuned.plant is not None and tuned.meta.variation is None and not tuned.factors
    if not only_planted:
        variations = _variations(tuned.meta.variation, tuned.meta, images)
        if tuned.factors:
            variations = variations.only(tuned.factors, f"{tuned.meta.path}: its variation file")
    meta = MetaSet(config, images, variations, mesh)
    table = np.full((dataset.num_images, len(meta.names)), -1, np.int64)
    if tuned.sampling == "histogram" or tuned.residual.of == "level":
        own = _variations(tuned.variation, config.data, dataset)
        for column, (factor, names) in enumerate(meta.names.items()):
            if own.names.get(factor) == names:
                table[:, column] = own.level[factor]
    return meta, table


def _identity(config: FinetuneStageConfig, inputs: Mapping[str, str]) -> Mapping[str, str]:
    """What must not change between a checkpoint and its continuation."""
    loop = config.train
    fixed = ("epochs", "batch_size", "accumulate", "clip_norm")
    sections = ("model", "sampling", "head", "augment", "optimizer", "schedule", "finetune")
    return {
        "seed": str(config.seed),
        **inputs,
        **{name: config_digest(getattr(config, name)) for name in sections},
        **{f"train.{name}": str(getattr(loop, name)) for name in fixed},
    }
