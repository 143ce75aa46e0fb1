"""Stage `clean`: whose image each is, and why: one posterior with a reason for every image.

ADC's cleaner (Zhang et al., ICCV 2021) and a model of what images of one person look like
(docs/methods.md) are evidence for the given label; what the same model says of whole classes is
read off it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.clean.adc import AdcConfig, Evidence, gcn_evidence
from facetrain.clean.calibration import Draw, calibrate
from facetrain.clean.decisions import numbers_of, overlay, result_of
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.evaluation_faces import excluded_embeddings
from facetrain.clean.fitting import describes_better, fit_to, fit_unsupervised
from facetrain.clean.labelled_set import LEAST_IMAGES, LabelledSet
from facetrain.clean.posterior import Calibration, posterior
from facetrain.clean.training import TrustedLabels, draw_noise, labelled_set, some_classes
from facetrain.core.artifact import Artifact, fingerprint
from facetrain.core.config import Paths
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.log import logger
from facetrain.core.run_folder import CLEAN_FILE, OVERLAY_FILE
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
"""Half and twice change F1 by less than a split's spread (docs/benchmarks/clean.md)."""

_GRAPH_RECALL = 0.8
"""Where the graph is approximate, of sets so large that exact search takes minutes: what it misses
are strangers. 0.81 instead of 0.96 changes 2 of 100,000 decisions (docs/benchmarks/growth.md)."""


class CleanConfig(AdcConfig):
    """How to clean labels."""

    gcn: bool = True
    """Ask ADC's cleaner as well; without it the identity model alone decides, several times
    faster."""
    exclude: Paths = ()
    """Evaluation sets (`.bin`, or features `.npz`) whose identities are flagged in the target."""
    source: Path | None = None
    """Features `.npz` with `is_clean`; without one the target's own believed images serve."""
    apply_suggestions: bool = False
    """Let the overlay move a dropped image to the class suggested for it."""


def clean(
    config: CleanConfig,
    target: EmbeddedSet,
    label: NDArray[np.int64],
    source: TrustedLabels | None,
    excluded: Sequence[NDArray[np.floating]],
    out_dir: Path,
    mesh: Mesh,
    digest: str,
    decided: NDArray[np.bool_] | None = None,
) -> CleaningResult:
    """Clean the labels (N,) of `target`; called by every rank, each gets the answer.

    Args:
        source: labels that are known; None takes the images that the identity model believes.
        excluded: embeddings (M, D) of evaluation sets, whose people the target should not have.
        out_dir: the pre-trained cleaner is kept here, and taken up when its `digest` is this one.
        digest: of config and inputs.
        decided: (N,) images whose label a person has confirmed: their probability is 1.

    Raises:
        DataError: the source has too few identities to learn from.
    """
    labelled = labelled_set(config.graph, target, label)
    model, belief = fit_unsupervised(labelled, mesh)
    believed = TrustedLabels(target, label, (belief > 0.5).cpu().numpy() & (label >= 0))
    calibrating = believed
    if source is not None:
        if config.gcn and (enough := _enough(source)) < _LEAST_SOURCE_CLASSES:
            raise DataError(
                f"the source must have {_LEAST_SOURCE_CLASSES} identities with at least "
                f"{LEAST_IMAGES} clean images each to learn from, but has {enough}; use a larger "
                "source"
            )
        known = labelled_set(
            config.graph, source.embedded, np.where(source.trusted, source.label, -1)
        )
        of_source = fit_to(known, known.certain())
        if describes_better(of_source, labelled, belief):
            model, calibrating = of_source, source
    if calibrating is believed and not _can_be_judged(label):
        logger.warning(
            "clean: nothing is judged: how alike people are shows from three identities of two "
            "images on, or two of three; add images of more people, or give a --source"
        )
        decided = np.ones(len(label), np.bool_)
    calibrating = some_classes(calibrating, _CALIBRATING_IMAGES, config.seed)
    evidence = _evidence(config, source or believed, labelled, calibrating, out_dir, mesh, digest)
    calibration = Calibration()
    if evidence.draws:
        calibration = calibrate(evidence.draws, model, Mesh.single(mesh.device))
        logger.info(
            "clean: by planted noise the model's evidence counts %.2f times, the given label is "
            "%.1f nats ahead, and the GCN's logit counts %.2f times",
            *calibration,
        )
    confirmed = None
    if decided is not None:
        confirmed = torch.from_numpy(decided & (label >= 0)).to(target.device)
    found = posterior(labelled, model, calibration, evidence.logit, mesh, confirmed)
    return result_of(labelled, model, calibration, found, excluded, confirmed, config.seed)


def _evidence(
    config: CleanConfig,
    source: TrustedLabels,
    labelled: LabelledSet,
    calibrating: TrustedLabels,
    out_dir: Path,
    mesh: Mesh,
    digest: str,
) -> Evidence:
    """What the GCN says, where it is asked and there is enough to learn from."""
    num_draws = _CALIBRATING_DRAWS if _enough(calibrating) >= _LEAST_SOURCE_CLASSES else 0
    if config.gcn and _enough(source) >= _LEAST_SOURCE_CLASSES:
        return gcn_evidence(config, source, labelled, calibrating, num_draws, out_dir, mesh, digest)
    if config.gcn:
        logger.warning(
            "clean: without the GCN, which learns from %d identities of at least %d images whose "
            "labels can be believed; this set has %d",
            _LEAST_SOURCE_CLASSES, LEAST_IMAGES, _enough(source),
        )  # fmt: skip
    truth = torch.from_numpy(calibrating.label).to(mesh.device)
    draws = [
        Draw(draw_noise(config.graph, calibrating, config.seed, "calibrate", draw), truth, None)
        for draw in range(num_draws)
    ]
    return Evidence(None, draws)


def _can_be_judged(label: NDArray[np.int64]) -> bool:
    """Whether a set shows by itself how alike the images of one person and of two are.

    Tried on sets of right labels from LFW: three identities of two images lose none, two of three
    lose none; one identity lost all its images, eight and one up to all, two and two half.
    """
    count = np.bincount(label[label >= 0])
    return bool((count >= 3).sum() >= 2 or (count >= 2).sum() >= 3)


def _enough(known: TrustedLabels) -> int:
    """Identities with enough believed images to plant noise among."""
    count = np.bincount(known.label[known.trusted], minlength=1)
    return int(np.count_nonzero(count >= LEAST_IMAGES))


def _known_source(
    config: CleanConfig, out_dir: Path, mesh: Mesh, embedding_size: int
) -> TrustedLabels | None:
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
    return TrustedLabels(embedded, features.label, features.is_clean)


def _embedded(
    config: CleanConfig, embedding: NDArray[np.floating], folder: Path, mesh: Mesh
) -> EmbeddedSet:
    """Embeddings with a kNN graph made for them in `folder`."""
    neighbours = KnnConfig(num_neighbours=config.graph.num_context, recall_target=_GRAPH_RECALL)
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
            cleaned.save(out_dir / CLEAN_FILE)
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
            cleaned = cleaned.named(dataset.class_ids)
            cleaned.save(out_dir / CLEAN_FILE)
            opinion = overlay(cleaned, dataset, config.apply_suggestions)
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
