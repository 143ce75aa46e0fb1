"""Stage `clean`: which images of a noisily labelled set belong to their identity.

ADC (Zhang et al., ICCV 2021): a GCN learns on a source with known noise to tell noise from
signal, is brought to the target by meta-supervision, and an adapter sets each class's threshold.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import safe_open

from facetrain.clean.answer import Cleaned, answer, numbers_of, overlay
from facetrain.clean.cleaner import Cleaner, clean_probability
from facetrain.clean.decision import decide
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.evaluation_faces import excluded_embeddings
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
from facetrain.core.config import Config, Paths
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.log import logger
from facetrain.core.run_folder import CLEAN_FILE, OVERLAY_FILE
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import load_features
from facetrain.dist.collectives import broadcast
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.graph.knn import KnnConfig, KnnGraph, knn_graph
from facetrain.models.weights import BackboneSource

PRETRAINED_FILE = "pretrained.safetensors"
_LEAST_SOURCE_CLASSES, _LEAST_SOURCE_IMAGES = 8, 4


class CleanConfig(Config):
    """How to clean labels."""

    seed: int = Field(0, ge=0)
    exclude: Paths = ()
    """Evaluation sets (`.bin`, or features `.npz`) whose identities are flagged in the target."""
    source: Path | None = None
    """Features `.npz` with `is_clean`; without one the target's most consistent classes serve."""
    apply_suggestions: bool = False
    """Let the overlay move a dropped image to the class suggested for it."""
    graph: GraphConfig = GraphConfig()
    pretrain: PretrainConfig = PretrainConfig()
    meta: MetaConfig = MetaConfig()
    adapter: AdapterConfig = AdapterConfig()


def clean(
    config: CleanConfig,
    target: EmbeddedSet,
    label: NDArray[np.int64],
    source: Known | None,
    excluded: Sequence[NDArray[np.floating]],
    out_dir: Path,
    mesh: Mesh,
    digest: str,
    decided: NDArray[np.bool_] | None = None,
) -> Cleaned:
    """Clean the labels (N,) of `target`; called by every rank, each gets the answer.

    Args:
        source: labels that are known; None takes the target's own most consistent classes.
        excluded: embeddings (M, D) of evaluation sets, whose people the target should not have.
        out_dir: the pre-trained cleaner is kept here, and taken up when its `digest` is this one.
        digest: of config and inputs.
        decided: (N,) images whose label a person has confirmed: their probability is 1.

    Raises:
        DataError: the source has too few identities to learn from.
    """
    labelled = labelled_set(config.graph, target, label)
    own = source is None
    source = source or Known(target, label, most_consistent(labelled))
    _check_source(source, own=own)
    cleaner = pretrained(config, source, out_dir / PRETRAINED_FILE, mesh, digest)
    for _ in range(2 if own else 1):
        cleaner = adapt(
            config.graph, config.meta, cleaner, source, labelled, mesh, config.seed,
            batch_classes=config.pretrain.batch_classes,
        )  # fmt: skip
        _same_on_every_rank(cleaner, mesh)
        if own:  # the cleaner knows by now more of its source than the rule that chose it
            chance = clean_probability(cleaner, labelled, mesh)[-1]
            better = Known(target, label, (chance > 0.5).cpu().numpy() & (label >= 0))
            source = better if _enough(better) >= _LEAST_SOURCE_CLASSES else source
    probability = clean_probability(cleaner, labelled, mesh)[-1]
    confirmed = torch.zeros(len(label), dtype=torch.bool, device=target.device)
    if decided is not None:
        confirmed |= torch.from_numpy(decided & (label >= 0)).to(target.device)
    probability[confirmed] = 1.0
    graphs = labelled.classes.to(target.device)
    threshold = torch.full((graphs.num_classes,), 0.5, device=target.device)
    if config.adapter.num_draws:
        adapter = learn_thresholds(
            config.graph, config.adapter, cleaner, source, config.seed, show=mesh.is_main
        )
        with torch.no_grad():
            threshold = adapter.threshold(probability[graphs.row], graphs)
    decision = decide(labelled, probability, threshold, confirmed)
    return answer(labelled, *decision, excluded)


def _enough(known: Known) -> int:
    """Identities with enough believed images to plant noise among."""
    count = np.bincount(known.label[known.trusted], minlength=1)
    return int(np.count_nonzero(count >= _LEAST_SOURCE_IMAGES))


def _check_source(source: Known, *, own: bool) -> None:
    if (enough := _enough(source)) < _LEAST_SOURCE_CLASSES:
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


def pretrained(config: CleanConfig, source: Known, path: Path, mesh: Mesh, digest: str) -> Cleaner:
    """The cleaner after its training on the source, from `path` if it lies there with `digest`."""
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
    neighbours = KnnConfig(num_neighbours=config.graph.num_context)
    knn, _ = knn_graph(embedding, neighbours, mesh, folder)
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
        excluded = excluded_embeddings(config.exclude, features.embedding.shape[1], None, mesh)
        digest = _digest(config, inputs)
        cleaned = clean(config, embedded, features.label, source, excluded, out_dir, mesh, digest)
        if mesh.is_main:
            given = np.arange(int(features.label.max()) + 1)
            cleaned.result(features.label, given).save(out_dir / CLEAN_FILE)
        return numbers_of(cleaned, features.label, features.is_clean)

    return run_stage("clean", config, inputs, out_dir, mesh, work)


def run(
    config: CleanConfig,
    dataset: FaceDataset,
    embeddings: Path,
    graph: Path,
    out_dir: Path,
    mesh: Mesh,
    *,
    backbone: BackboneSource | None,
    inputs: Mapping[str, str],
    decided: NDArray[np.bool_] | None = None,
) -> Artifact:
    """Stage `clean` on a data set that was embedded: leaves also `overlay.npz`.

    Args:
        embeddings: folder of the stage `embed`.
        graph: folder of the stage `graph` on it.
        backbone: what embedded it; needed to embed an evaluation set.
        inputs: name -> fingerprint of what made the two.
        decided: (num_images,) where a person has spoken in the data set's overlays.
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
        excluded = excluded_embeddings(config.exclude, embedding.shape[1], backbone, mesh)
        digest = _digest(config, all_inputs)
        # An image that did not decode has no embedding; nothing is said of it.
        label = np.where(np.load(embeddings / "norm.npy") > 0, dataset.label, -1)
        cleaned = clean(config, embedded, label, source, excluded, out_dir, mesh, digest, decided)
        if mesh.is_main:
            cleaned.result(label, dataset.class_ids, decided).save(out_dir / CLEAN_FILE)
            opinion = overlay(cleaned, label, dataset, config.apply_suggestions, decided)
            opinion.save(out_dir / OVERLAY_FILE)
        return numbers_of(cleaned, label, None)

    return run_stage("clean", config, all_inputs, out_dir, mesh, work)


def _source_input(config: CleanConfig) -> dict[str, str]:
    named = {"source": (config.source,) if config.source else (), "exclude": config.exclude}
    return {
        f"{name} {number}": fingerprint(path)
        for name, paths in named.items()
        for number, path in enumerate(paths)
    }


def _digest(config: CleanConfig, inputs: Mapping[str, str]) -> str:
    """Of what the pre-trained cleaner depends on."""
    learned_from = inputs.get("source 0") or dict(inputs)  # no source: the target itself
    parts = config.model_dump(mode="json", include={"seed", "graph", "pretrain"})
    return json.dumps([parts, learned_from], sort_keys=True)
