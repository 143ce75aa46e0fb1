"""Stage `clean`: which images of a noisily labelled set belong to their identity.

ADC (Zhang et al., ICCV 2021): a GCN learns on a source with known noise to tell noise from
signal, is brought to the target by meta-supervision, and an adapter sets each class's threshold.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import safe_open

from facetrain.clean.cleaner import Cleaner, clean_probability
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.self_source import most_consistent
from facetrain.clean.thresholds import AdapterConfig, learn_thresholds
from facetrain.clean.training import (
    GraphConfig,
    Known,
    MetaConfig,
    PretrainConfig,
    adapt,
    labelled_set,
    pretrain,
)
from facetrain.core.artifact import Artifact, atomic_path, fingerprint
from facetrain.core.config import Config, config_digest
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.log import logger
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import load_features
from facetrain.data.overlay import LabelOverlay
from facetrain.dist.collectives import broadcast
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.graph.knn import KnnConfig, KnnGraph, knn_graph
from facetrain.metrics.noise import noise_detection

CLEAN_FILE = "clean.npz"
OVERLAY_FILE = "overlay.npz"
_PRETRAINED = "pretrained.safetensors"
_LEAST_SOURCE_CLASSES, _LEAST_SOURCE_IMAGES = 8, 4


class CleanConfig(Config):
    """How to clean labels."""

    seed: int = Field(0, ge=0)
    source: Path | None = None
    """Features `.npz` with `is_clean`; without one the target's most consistent classes serve."""
    graph: GraphConfig = GraphConfig()
    pretrain: PretrainConfig = PretrainConfig()
    meta: MetaConfig = MetaConfig()
    adapter: AdapterConfig = AdapterConfig()


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What the cleaner says of N images and of the classes they are labelled with."""

    clean_probability: NDArray[np.float32]  # (N,) in [0, 1]
    threshold: NDArray[np.float32]  # (largest label + 1,), NaN for a class without images
    kept: NDArray[np.bool_]  # (N,) clean_probability > threshold[label]
    suggested_label: NDArray[np.int64]  # (N,) the class a dropped image belongs to, or -1

    def save(self, path: Path) -> None:
        """Write the `.npz`, atomically."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **vars(self))


def clean(
    config: CleanConfig,
    target: EmbeddedSet,
    label: NDArray[np.int64],
    source: Known | None,
    out_dir: Path,
    mesh: Mesh,
    digest: str,
) -> Cleaned:
    """Clean the labels (N,) of `target`; called by every rank, each gets the answer.

    The pre-trained cleaner is kept in `out_dir`, and taken from there when its `digest` (of
    config and inputs) is this one.

    Raises:
        DataError: the source has too few identities to learn from.
    """
    labelled = labelled_set(config.graph, target, label)
    source = source or Known(target, label, most_consistent(labelled))
    _check_source(source, own=source.embedded is target)
    cleaner = _pretrained(config, source, out_dir / _PRETRAINED, mesh, digest)
    cleaner = adapt(
        config.graph, config.meta, cleaner, source, labelled, mesh, config.seed,
        batch_classes=config.pretrain.batch_classes,
    )  # fmt: skip
    _same_on_every_rank(cleaner, mesh)
    probability = clean_probability(cleaner, labelled, mesh)[-1].cpu()
    graphs = labelled.classes
    threshold = torch.full((graphs.num_classes,), 0.5)
    if config.adapter.num_draws:
        adapter = learn_thresholds(config.graph, config.adapter, cleaner, source, mesh, config.seed)
        with torch.no_grad():
            threshold = adapter.threshold(probability[graphs.row], graphs)
    of_class = np.full(int(label.max()) + 1, np.nan, np.float32)
    of_class[graphs.class_id.numpy()] = threshold.numpy()
    chance = probability.numpy().astype(np.float32)
    kept = chance > of_class[label]
    return Cleaned(chance, of_class, kept, np.full(len(label), -1))


def _check_source(source: Known, *, own: bool) -> None:
    """Enough identities to learn from?"""
    count = np.bincount(source.label[source.trusted], minlength=1)
    enough = int(np.count_nonzero(count >= _LEAST_SOURCE_IMAGES))
    if enough < _LEAST_SOURCE_CLASSES:
        advice = (
            "too few of the set's own classes are that consistent: name a source whose noise is "
            "known (`facetrain corrupt` plants it)"
            if own
            else "use a larger source"
        )
        raise DataError(
            f"the source must have {_LEAST_SOURCE_CLASSES} identities with at least "
            f"{_LEAST_SOURCE_IMAGES} clean images each to learn from, but has {enough}; {advice}"
        )


def _pretrained(config: CleanConfig, source: Known, path: Path, mesh: Mesh, digest: str) -> Cleaner:
    """The cleaner after its training on the source, from `path` if it was there before."""
    if path.is_file():
        with safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get("digest") == digest
        if same:
            logger.info("%s: trained before", path)
            state = safetensors.torch.load_file(path)
            cleaner = Cleaner(config.graph.gcn, torch.zeros(2, len(state["mean"])))
            cleaner.load_state_dict(state)
            return cleaner.to(mesh.device)
    cleaner = pretrain(config.graph, config.pretrain, source, config.seed, show=mesh.is_main)
    _same_on_every_rank(cleaner, mesh)
    if mesh.is_main:
        with atomic_path(path) as temporary:
            state = {name: value.contiguous() for name, value in cleaner.state_dict().items()}
            safetensors.torch.save_file(state, temporary, {"digest": digest})
    mesh.barrier()
    return cleaner


def _same_on_every_rank(cleaner: Cleaner, mesh: Mesh) -> None:
    """Rank 0's weights everywhere: sums on a GPU come out in any order."""
    for value in cleaner.state_dict().values():
        value.copy_(broadcast(value, mesh))


def _known_source(
    config: CleanConfig, out_dir: Path, mesh: Mesh, embedding_size: int
) -> Known | None:
    """The source that the config names, with its own graph."""
    if config.source is None:
        return None
    features = load_features(config.source, need_is_clean=True)
    assert features.is_clean is not None
    size = features.embedding.shape[1]
    if config.graph.node_input != "relational" and size != embedding_size:
        raise ConfigError(
            f"node_input={config.graph.node_input} reads embeddings, so {config.source} must have "
            f"{embedding_size} numbers an image like the target, but has {size}; use relational"
        )
    embedded = _embedded(config, features.embedding, out_dir / "source_graph", mesh)
    return Known(embedded, features.label, features.is_clean)


def _embedded(
    config: CleanConfig, embedding: NDArray[np.floating], folder: Path, mesh: Mesh
) -> EmbeddedSet:
    """Embeddings with a kNN graph made for them in `folder`."""
    knn, _ = knn_graph(embedding, KnnConfig(), mesh, folder)
    return EmbeddedSet(embedding, knn, config.graph.num_context, mesh.device)


def run_features(config: CleanConfig, target: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `clean` on the features `.npz` `target`: leaves `clean.npz` and the manifest.

    Where the target holds `is_clean` the numbers say how well its noise was found; nothing else
    reads it.
    """
    features = load_features(target)
    inputs = {"target": fingerprint(target), **_source_input(config)}

    def work() -> Mapping[str, Any]:
        source = _known_source(config, out_dir, mesh, features.embedding.shape[1])
        embedded = _embedded(config, features.embedding, out_dir / "graph", mesh)
        digest = _digest(config, inputs)
        cleaned = clean(config, embedded, features.label, source, out_dir, mesh, digest)
        if mesh.is_main:
            cleaned.save(out_dir / CLEAN_FILE)
        return _metrics(cleaned, features.label, features.is_clean)

    return run_stage("clean", config, inputs, out_dir, mesh, work)


def run(
    config: CleanConfig,
    dataset: FaceDataset,
    embeddings: Path,
    graph: Path,
    out_dir: Path,
    mesh: Mesh,
    *,
    backbone: Path | None,
    inputs: Mapping[str, str],
) -> Artifact:
    """Stage `clean` on a data set that was embedded: leaves also `overlay.npz`.

    Args:
        embeddings: folder of the stage `embed`.
        graph: folder of the stage `graph` on it.
        backbone: what embedded it; needed to embed an evaluation set.
        inputs: name -> fingerprint of what made the two.
    """
    embedding = np.load(embeddings / "embedding.npy", mmap_mode="r", allow_pickle=False)
    if len(embedding) != dataset.num_images:
        raise DataError(
            f"{embeddings}: must hold an embedding of each of the {dataset.num_images} images of "
            f"the data set, but holds {len(embedding)}; embed it again"
        )
    all_inputs = {**inputs, "data": dataset.fingerprint, **_source_input(config)}

    def work() -> Mapping[str, Any]:
        source = _known_source(config, out_dir, mesh, embedding.shape[1])
        knn = KnnGraph.open(graph)
        embedded = EmbeddedSet(embedding, knn, config.graph.num_context, mesh.device)
        digest = _digest(config, all_inputs)
        cleaned = clean(config, embedded, dataset.label, source, out_dir, mesh, digest)
        if mesh.is_main:
            cleaned.save(out_dir / CLEAN_FILE)
            overlay(cleaned, dataset).save(out_dir / OVERLAY_FILE)
        return _metrics(cleaned, dataset.label, None)

    return run_stage("clean", config, all_inputs, out_dir, mesh, work)


def overlay(cleaned: Cleaned, dataset: FaceDataset) -> LabelOverlay:
    """The cleaner's opinion over all rows of the data set, in its original labels."""
    label = dataset.class_ids[dataset.label]

    def column(value: NDArray[Any], absent: Any) -> NDArray[Any]:
        full = np.full(dataset.num_rows, absent, value.dtype)
        full[dataset.row] = value
        return full

    suggested = cleaned.suggested_label
    suggested = np.where(suggested >= 0, dataset.class_ids[suggested], -1)
    return LabelOverlay.make(
        column(label, 0),
        column(cleaned.kept, True),
        clean_probability=column(cleaned.clean_probability, np.nan),
        suggested_label=column(suggested, -1),
        source=column(np.ones(len(label), np.uint8), 0),
        source_names=("", "clean"),
        dataset_fingerprint=dataset.base_fingerprint,
    )


def _source_input(config: CleanConfig) -> dict[str, str]:
    return {"source": fingerprint(config.source)} if config.source else {}


def _digest(config: CleanConfig, inputs: Mapping[str, str]) -> str:
    return json.dumps([config_digest(config), dict(inputs)])


def _metrics(
    cleaned: Cleaned, label: NDArray[np.int64], is_clean: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """The stage's numbers; with the truth, how well the noise was found."""
    numbers: dict[str, Any] = {
        "num_images": len(label),
        "num_classes": len(np.unique(label)),
        "num_kept": int(cleaned.kept.sum()),
        "num_dropped": int((~cleaned.kept).sum()),
        "num_suggested": int((cleaned.suggested_label >= 0).sum()),
        "mean_threshold": float(np.nanmean(cleaned.threshold)),
    }
    if is_clean is not None:
        numbers |= noise_detection(cleaned.clean_probability, cleaned.kept, is_clean).numbers()
    return numbers
