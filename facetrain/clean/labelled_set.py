"""An embedded set under some labels, in pieces of whole classes ready for the GCN."""

import dataclasses
import functools
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.relational import Context, Scale, measure_scale, relational_features
from facetrain.core.rng import torch_generator
from facetrain.graph.affinity import normalised_affinity
from facetrain.graph.class_graphs import (
    ClassGraphs,
    Neighbourhoods,
    class_neighbours,
    group_by_class,
)
from facetrain.graph.dgl_graph import DGLGraph
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import Graph

NodeInput = Literal["relational", "canonical", "embedding"]
Backend = Literal["native", "dgl"]
_DUPLICATE = 0.9995
LEAST_IMAGES = 4
"""Of a class that the GCN learns on and judges; in fewer it sees no structure."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some classes of a labelled set: N nodes and what the GCN needs of them."""

    owner: "LabelledSet"
    graphs: ClassGraphs
    unit_embedding: Tensor  # (N, D) centred
    whole: Neighbourhoods
    neighbour: Tensor  # (N, K) nodes of the same class, -1 past its end
    similarity: Tensor  # (N, K)
    context_similarity: Tensor  # (N, K')
    context_row: Tensor  # (N, K')

    def features(self, weight: Tensor) -> Tensor:
        """What the GCN reads of each node, (N, F).

        Args:
            weight: (num_images,) belief in each image's label, by row of the data set.
        """
        if self.owner.node_input == "embedding":
            return self.unit_embedding
        if self.owner.node_input == "canonical":
            return canonical_frame(self.unit_embedding, self.graphs)
        own = self.owner.label_of_row[self.graphs.row][:, None]
        label = self.owner.label_of_row[self.context_row].where(self.context_row >= 0, -1)
        # The very image under another label says nothing about which of the two is right.
        label = label.where((self.context_similarity < _DUPLICATE) | (label == own), -1)
        around = Context(self.context_similarity, label, weight[self.context_row])
        return relational_features(
            self.unit_embedding,
            self.graphs,
            self.whole,
            weight[self.graphs.row],
            around,
            self.owner.scale,
        )

    def truth(self) -> Tensor:
        """Whether each node is clean, (N,) bool, where the set knows."""
        assert self.owner.is_clean is not None
        return self.owner.is_clean[self.graphs.row]

    def graph(self, classes: Tensor | None = None) -> tuple[Graph, Tensor]:
        """The graphs of these classes (of all), packed, and their nodes in this piece."""
        neighbour, similarity = self.neighbour, self.similarity
        node = torch.arange(self.graphs.num_nodes, device=neighbour.device)
        if classes is not None:
            subset = self.graphs.subset(classes)
            shift = (self.graphs.start[:-1][classes] - subset.start[:-1])[subset.label]
            node = torch.arange(subset.num_nodes, device=neighbour.device) + shift
            neighbour, similarity = neighbour[node] - shift[:, None], similarity[node]
            neighbour = neighbour.where(self.neighbour[node] >= 0, -1)
        mask = neighbour >= 0
        make = DGLGraph if self.owner.backend == "dgl" else NeighbourTable
        return make(neighbour.clamp(min=0), normalised_affinity(similarity, mask), mask), node


class LabelledSet:
    """Labels over an embedded set.

    Args:
        embedded: the images.
        label: (num_images,) what they are said to be; -1 is absent.
        is_clean: (num_images,) truth about the labels, where it is known.
        num_neighbours: K of the class graphs.
        node_input: what the GCN reads of a node.
        backend: what computes the graph convolution.
    """

    def __init__(
        self,
        embedded: EmbeddedSet,
        label: NDArray[np.integer],
        is_clean: NDArray[np.bool_] | None = None,
        *,
        num_neighbours: int,
        node_input: NodeInput,
        backend: Backend,
    ) -> None:
        self.embedded, self.node_input, self.backend = embedded, node_input, backend
        self.classes = group_by_class(label)  # on the CPU
        self.label_of_row = torch.from_numpy(label.astype(np.int64)).to(embedded.device)
        self.place_of_row = torch.full_like(self.label_of_row, -1)
        """(num_images,) which of `classes` each image is labelled with; -1 is absent."""
        self.place_of_row[self.classes.row.to(embedded.device)] = self.classes.label.to(
            embedded.device
        )
        self.is_clean = None if is_clean is None else torch.from_numpy(is_clean).to(embedded.device)
        self._num_neighbours = num_neighbours
        self.large = torch.nonzero(self.classes.size >= LEAST_IMAGES)[:, 0]
        """Places in `classes` of those with at least LEAST_IMAGES images."""

    @functools.cached_property
    def scale(self) -> Scale:
        """What cosines mean in this set, under its labels."""
        return measure_scale(self.embedded.rows, self.classes, torch_generator(0, "scale"))

    @property
    def num_images(self) -> int:
        """Rows of the data set, absent ones included."""
        return int(self.embedded.num_images)

    def certain(self) -> Tensor:
        """Full belief in every label, (num_images,): the weight of a first pass."""
        return torch.ones(self.num_images, device=self.embedded.device)

    def piece(self, classes: Tensor | None = None) -> Piece:
        """These classes (places in `self.classes`), or all of them, on the set's device."""
        graphs = self.classes if classes is None else self.classes.subset(classes)
        graphs = graphs.to(self.embedded.device)
        unit_embedding = self.embedded.rows(graphs.row)
        whole = Neighbourhoods(unit_embedding, graphs)
        nearest = class_neighbours(whole, graphs, self._num_neighbours)
        return Piece(
            self, graphs, unit_embedding, whole, *nearest, *self.embedded.context(graphs.row)
        )

    def cut(self, max_nodes: int) -> list[Tensor]:
        """The large classes in runs of `max_nodes` images or less, and one class more."""
        size = self.classes.size[self.large]
        before = size.cumsum(0) - size
        count = torch.unique_consecutive(before // max_nodes, return_counts=True)[1]
        return list(torch.split(self.large, count.tolist()))


def canonical_frame(unit_embedding: Tensor, graphs: ClassGraphs) -> Tensor:
    """Each class reflected so that its mean points along the first axis, (N, D).

    A Householder reflection: cosines inside a class stay, and turning the whole space turns only
    what is orthogonal to the mean.
    """
    mean = torch.nn.functional.normalize(graphs.sum(unit_embedding))  # (C, D)
    axis = torch.zeros_like(mean)
    axis[:, 0] = 1
    normal = torch.nn.functional.normalize(mean - axis)[graphs.label]  # zero where they agree
    return unit_embedding - 2 * (unit_embedding * normal).sum(1, keepdim=True) * normal
