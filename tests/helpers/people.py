"""Synthetic embeddings of known people, and a cleaner small enough to train within a test."""

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.clean.cleaner import Cleaner
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.labelled_set import GraphConfig, LabelledSet, NodeInput
from facetrain.clean.training import PretrainConfig, pretrain
from facetrain.core.rng import numpy_generator
from facetrain.data.features import unit_rows
from facetrain.data.noise.plant import NoiseConfig, plant
from facetrain.graph.knn import KnnGraph
from facetrain.models.gcn import GCNConfig

CPU = torch.device("cpu")
GRAPH = GraphConfig(num_neighbours=6, num_context=12, gcn=GCNConfig(widths=(16, 8), bias=True))
PRETRAIN = PretrainConfig(num_draws=8, batch_classes=8, learning_rate=1e-2)


class People(NamedTuple):
    """Images of identities 0, 1, ..., in random order."""

    embedding: NDArray[np.float32]  # (N, D) of any length
    label: NDArray[np.int64]  # (N,)


def people(
    seed: int, num_identities: int, images: tuple[int, int] = (6, 14), size: int = 24
) -> People:
    """Clusters in a cone, as embeddings of faces are: a common part, a person's, an image's."""
    generator = numpy_generator(seed, "people")
    count = generator.integers(images[0], images[1], num_identities, endpoint=True)
    label = generator.permutation(np.repeat(np.arange(num_identities), count))
    person = generator.normal(size=(num_identities, size)) / np.sqrt(size)
    image = generator.normal(size=(len(label), size)) / np.sqrt(size)
    strength = generator.uniform(0.4, 0.8, (len(label), 1))
    embedding = 0.6 * generator.normal(size=size) / np.sqrt(size) + person[label]
    embedding = (embedding + strength * image) * generator.uniform(0.5, 2, (len(label), 1))
    return People(embedding.astype(np.float32), label)


def noisy_people(seed: int, num_identities: int, rate: float = 0.25) -> tuple[Any, Any, Any]:
    """Embeddings (N, D), labels (N,) with flips and structured noise, and `is_clean` (N,)."""
    embedding, label = people(seed, num_identities)
    planted = plant(label, NoiseConfig(flip=rate / 2, structured=rate / 2, seed=seed))
    return embedding, planted.label, planted.is_clean


def slow_knn(embedding: NDArray[Any], num_neighbours: int = 30) -> KnnGraph:
    """Every image's most similar others, by sorting all of them."""
    unit = unit_rows(embedding).astype(np.float64)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(num_neighbours, len(unit) - 1)]
    nearest = np.take_along_axis(cosine, order, 1).astype(np.float32)
    return KnnGraph(order.astype(np.int32), nearest)


def embedded(embedding: NDArray[Any], num_context: int = GRAPH.num_context) -> EmbeddedSet:
    """`embedding` with its graph."""
    return EmbeddedSet(embedding, slow_knn(embedding), num_context, CPU)


def known(seed: int, num_identities: int, graph: GraphConfig = GRAPH) -> LabelledSet:
    """People whose labels are all true."""
    embedding, label = people(seed, num_identities)
    return LabelledSet(embedded(embedding), label, graph)


@functools.cache
def _trained(seed: int, node_input: NodeInput) -> Cleaner:
    graph = GRAPH.model_copy(update={"node_input": node_input})
    return pretrain(PRETRAIN, known(seed + 100, 24, graph), seed, show=False)


def trained_cleaner(seed: int = 0, node_input: NodeInput = "relational") -> Cleaner:
    """A cleaner that has learned from 24 people; the same weights in a new object every time."""
    return copy.deepcopy(_trained(seed, node_input))


def random_unit(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Rows of length 1."""
    return unit_rows(generator.normal(size=(rows, columns)))


def rotation(seed: int, size: int) -> NDArray[np.float32]:
    """A random orthogonal matrix (D, D)."""
    square = numpy_generator(seed, "rotation").normal(size=(size, size))
    return np.linalg.qr(square)[0].astype(np.float32)
