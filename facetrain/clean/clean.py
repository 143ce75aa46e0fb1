"""Stage `clean`: whose image each is, and why: one posterior with a reason for every image.

ADC's cleaner and a model of what images of one person look like are evidence for the given label;
what holds of whole classes is read off the same model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.clean.adc import Adc, AdcConfig, learn_adc
from facetrain.clean.decisions import numbers_of, overlay, result_of
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.evaluation_faces import excluded_embeddings
from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LEAST_IMAGES, LabelledSet
from facetrain.clean.model_choice import fit_to, fit_unsupervised, likelier
from facetrain.clean.posterior import Calibration, Estimation
from facetrain.clean.posterior_calibration import calibrate
from facetrain.core.artifact import Artifact, fingerprint
from facetrain.core.config import Paths
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.log import logger
from facetrain.core.npy_file import read_npy
from facetrain.core.run_folder import CLEAN_FILE, EMBEDDING_FILE, NORM_FILE, OVERLAY_FILE
from facetrain.data.cleaning_result import CleaningResult
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import load_features
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.graph.knn import KnnConfig, KnnGraph, knn_graph
from facetrain.models.weights import BackboneSource

_LEAST_SOURCE_CLASSES = 8
_CALIBRATING_IMAGES = 1 << 16
_CALIBRATING_DRAWS = 3
_GRAPH_RECALL = 0.8
"""Where the graph is approximate: what it misses are strangers (docs/benchmarks/growth.md)."""


class CleanConfig(AdcConfig):
    """How to clean labels."""

    gcn: bool = True
    """Ask ADC's cleaner as well; without it the identity model alone decides, several times
    faster."""
    exclude: Paths = ()
    """Evaluation sets (`.bin`, or features `.npz`) whose identities are flagged in the target."""
    source: Path | None = None
    """Features `.npz` with `is_clean`; without one the target's own clean images serve."""
    apply_suggestions: bool = False
    """Let the overlay move a dropped image to the class suggested for it."""


def clean(
    config: CleanConfig,
    labelled: LabelledSet,
    source: LabelledSet | None,
    out_dir: Path,
    mesh: Mesh,
    digest: str,
    backbone: BackboneSource | None = None,
) -> CleaningResult:
    """Clean the labels of a set; called by every rank, each gets the result.

    Args:
        source: images whose labels are true; without it those that the identity model finds clean.
        out_dir: the pre-trained cleaner is kept here, and taken up when its `digest` is this one.
        digest: of config and inputs.
        backbone: what embedded the set; needed to embed an evaluation set.

    Raises:
        DataError: the source has too few identities to learn from.
    """
    excluded = excluded_embeddings(config.exclude, labelled.embedded.size, backbone, mesh)
    model, probability = fit_unsupervised(labelled, mesh)
    own = known = labelled.only(probability > 0.5)
    num_learnable = len((source or own).large)
    too_few = num_learnable < _LEAST_SOURCE_CLASSES
    if source is not None:
        if config.gcn and too_few:
            raise DataError(
                f"the source must have {_LEAST_SOURCE_CLASSES} identities with at least "
                f"{LEAST_IMAGES} clean images each to learn from, but has {num_learnable}; use a "
                "larger source"
            )
        of_source = fit_to(source, source.ones())
        if likelier(of_source, labelled, probability):
            model, known = of_source, source
    several, pairs = int((labelled.size >= 3).sum()), int((labelled.size >= 2).sum())
    if known is own and several < 2 and pairs < 3:
        logger.warning(
            "clean: nothing is judged: how alike people are shows from three identities of two "
            "images on, or two of three; add images of more people, or give a --source"
        )
        labelled.verified = torch.ones_like(labelled.verified)
    adc = None
    if config.gcn and not too_few:
        adc = learn_adc(config, source or own, labelled, out_dir, mesh, digest)
    elif config.gcn:
        logger.warning(
            "clean: without the GCN, which learns from %d identities of at least %d images whose "
            "labels can be trusted; this set has %d",
            _LEAST_SOURCE_CLASSES, LEAST_IMAGES, num_learnable,
        )  # fmt: skip
    calibration = _calibration(known, model, adc, config.seed, mesh)
    logit = None if adc is None else adc.logit(labelled, mesh)
    found = Estimation(labelled, model, calibration, logit, mesh).run().posterior()
    return result_of(found, excluded, config.seed)


def _calibration(
    known: LabelledSet, model: IdentityModel, adc: Adc | None, seed: int, mesh: Mesh
) -> Calibration:
    """By noise planted into images whose labels are known, where there are enough."""
    if len(known.large) < _LEAST_SOURCE_CLASSES:
        return Calibration()
    chosen = known.some(None, _CALIBRATING_IMAGES, seed, "calibrate")
    known = known.only(torch.isin(known.place_of_row, chosen.to(mesh.device)))
    draws = [known.with_noise(seed, "calibrate", draw) for draw in range(_CALIBRATING_DRAWS)]
    alone = Mesh.single(mesh.device)
    logits = [None if adc is None else adc.logit(draw, alone) for draw in draws]
    calibration = calibrate(draws, logits, model)
    logger.info(
        "clean: by planted noise the model's evidence counts %.2f times, the given label is "
        "%.1f nats ahead, and the GCN's logit, where it is asked, counts %.2f times",
        *calibration,
    )
    return calibration


def _with_graph(
    config: CleanConfig, embedding: NDArray[np.floating], label: NDArray[np.int64], folder: Path,
    mesh: Mesh,
) -> LabelledSet:  # fmt: skip
    """A set with its graph, which is made where it does not lie in `folder`."""
    neighbours = KnnConfig(num_neighbours=config.graph.num_context, recall_target=_GRAPH_RECALL)
    graph, _ = knn_graph(embedding, neighbours, mesh, folder)
    embedded = EmbeddedSet(embedding, graph, config.graph.num_context, mesh.device)
    return LabelledSet(embedded, label, config.graph)


def _source_set(
    config: CleanConfig, out_dir: Path, mesh: Mesh, embedding_size: int
) -> LabelledSet | None:
    """The clean images of the source that the config names, with a graph of their own."""
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
    label = np.where(features.is_clean, features.label, -1)
    return _with_graph(config, features.embedding, label, out_dir / "source_graph", mesh)


def _digest(config: CleanConfig, inputs: Mapping[str, str]) -> str:
    """Of what the pre-trained cleaner depends on: without a source, the target itself."""
    parts = config.model_dump(mode="json", include={"seed", "graph", "pretrain"})
    return json.dumps([parts, inputs.get("source 0") or dict(inputs)], sort_keys=True)


def run_features(config: CleanConfig, target: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `clean` on the features `.npz` `target`: leaves `clean.npz` and the manifest.

    Where the target holds `is_clean` the numbers say how well its noise was found; nothing else
    reads it.
    """
    features = load_features(target)
    inputs = {"target": fingerprint(target), **_files(config)}

    def work() -> Mapping[str, Any]:
        embedding, label = features.embedding, features.label
        labelled = _with_graph(config, embedding, label, out_dir / "graph", mesh)
        source = _source_set(config, out_dir, mesh, labelled.embedded.size)
        cleaned = clean(config, labelled, source, out_dir, mesh, _digest(config, inputs))
        if mesh.is_main:
            cleaned.save(out_dir / CLEAN_FILE)
        return numbers_of(cleaned, label, features.is_clean)

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
    verified: NDArray[np.bool_] | None = None,
) -> Artifact:
    """Stage `clean` on a data set that was embedded: leaves also `overlay.npz`.

    Args:
        embeddings: folder of the stage `embed`.
        graph: folder of the stage `graph` on it.
        backbone: what embedded it; needed to embed an evaluation set.
        inputs: name -> fingerprint of what made the two.
        verified: (num_images,) where a person has decided in the data set's overlays.
    """
    images, again = dataset.num_images, "embed the data set again"
    types = (np.float16, np.float32)
    embedding = read_npy(
        embeddings / EMBEDDING_FILE, "embeddings", (images, None), types, advice=again
    )
    norm = read_npy(embeddings / NORM_FILE, "norms", (images,), np.float32, advice=again)
    all_inputs = {**inputs, "data": dataset.fingerprint, **_files(config)}

    def work() -> Mapping[str, Any]:
        # An image that did not decode has no embedding; it is not judged.
        label = np.where(norm > 0, dataset.label, -1)
        knn = KnnGraph.open(graph)
        embedded = EmbeddedSet(embedding, knn, config.graph.num_context, mesh.device)
        labelled = LabelledSet(embedded, label, config.graph, verified=verified)
        source, digest = (
            _source_set(config, out_dir, mesh, embedded.size),
            _digest(config, all_inputs),
        )
        cleaned = clean(config, labelled, source, out_dir, mesh, digest, backbone)
        if mesh.is_main:
            cleaned = cleaned.named(dataset.class_ids)
            cleaned.save(out_dir / CLEAN_FILE)
            overlay(cleaned, dataset, config.apply_suggestions).save(out_dir / OVERLAY_FILE)
        return numbers_of(cleaned, label, None)

    return run_stage("clean", config, all_inputs, out_dir, mesh, work)


def _files(config: CleanConfig) -> dict[str, str]:
    """Digests of the files that the config names."""
    files = {f"exclude {number}": path for number, path in enumerate(config.exclude)}
    if config.source:
        files["source 0"] = config.source
    return {name: fingerprint(path) for name, path in files.items()}
