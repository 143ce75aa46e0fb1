"""An embedded set under some labels, in pieces of whole classes ready for the GCN."""

import dataclasses
import functools
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.fresh_noise import fresh_noise
from facetrain.clean.relational import Context, Scale, measure_scale, relational_features
from facetrain.core.config import Config
from facetrain.core.rng import numpy_generator, torch_generator
from facetrain.graph.affinity import normalised_affinity
from facetrain.graph.class_graphs import (
    ClassGraphs,
    Neighbourhoods,
    class_neighbours,
    group_by_class,
)
from facetrain.graph.dgl_graph import DGLGraph
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import GCNConfig, Graph

NodeInput = Literal["relational", "canonical", "embedding"]
_DUPLICATE = 0.9995
LEAST_IMAGES = 4
"""Of a class that the GCN learns on and judges; in fewer it sees no structure."""


class GraphConfig(Config):
    """What the GCN reads, and how its graph is made."""

    node_input: NodeInput = "relational"
    """`embedding` is the paper's literal form, `canonical` turns each class to one axis first;
    both memorise the people of a source with few identities."""
    num_neighbours: int = Field(20, ge=1)
    """K of the class graphs."""
    num_context: int = Field(40, ge=1)
    """Neighbours in the global graph, of any class."""
    backend: Literal["native", "dgl"] = "native"
    """`dgl` gives the same numbers, more slowly."""
    gcn: GCNConfig = GCNConfig(bias=True)


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
            weight: (num_images,) probability of each image's label, by row of the data set.
        """
        owner, unit, graphs = self.owner, self.unit_embedding, self.graphs
        if owner.config.node_input == "embedding":
            return unit
        if owner.config.node_input == "canonical":
            return canonical_frame(unit, graphs)
        own = owner.label_of_row[graphs.row][:, None]
        label = owner.label_of_row[self.context_row].where(self.context_row >= 0, -1)
        # The very image under another label does not show which of the two is right.
        label = label.where((self.context_similarity < _DUPLICATE) | (label == own), -1)
        around = Context(self.context_similarity, label, weight[self.context_row])
        return relational_features(
            unit, graphs, self.whole, weight[graphs.row], around, owner.scale
        )

    def truth(self) -> Tensor:
        """Whether each node's label is its true one, (N,) bool, where the set knows."""
        assert self.owner.true_label is not None
        return (self.owner.label_of_row == self.owner.true_label)[self.graphs.row]

    def graph(self, classes: Tensor | None = None) -> tuple[Graph, Tensor]:
        """The graphs of these classes (of all), packed, and their nodes in this piece."""
        if classes is None:
            classes = torch.arange(self.graphs.num_classes, device=self.neighbour.device)
        subset = self.graphs.subset(classes)
        shift = (self.graphs.start[:-1][classes] - subset.start[:-1])[subset.label]
        node = torch.arange(subset.num_nodes, device=shift.device) + shift
        mask = self.neighbour[node] >= 0
        neighbour = (self.neighbour[node] - shift[:, None]).where(mask, 0)
        make = DGLGraph if self.owner.config.backend == "dgl" else NeighbourTable
        return make(neighbour, normalised_affinity(self.similarity[node], mask), mask), node


class LabelledSet:
    """Labels over an embedded set, its C classes numbered by place.

    Args:
        embedded: the images.
        label: (num_images,) what they are said to be; -1 is absent.
        config: how its class graphs are made.
        true_label: (num_images,) where it is known.
        verified: (num_images,) bool, labels that are certain.
    """

    def __init__(
        self,
        embedded: EmbeddedSet,
        label: NDArray[np.integer],
        config: GraphConfig,
        true_label: Tensor | None = None,
        verified: NDArray[np.bool_] | None = None,
    ) -> None:
        self.embedded, self.config, self.true_label = embedded, config, true_label
        verified = np.zeros(len(label), np.bool_) if verified is None else verified
        self.verified = torch.from_numpy(verified).to(embedded.device)
        self.classes = group_by_class(label)  # on the CPU
        self.label_of_row = torch.from_numpy(label.astype(np.int64)).to(embedded.device)
        self.place_of_row = torch.full_like(self.label_of_row, -1)
        """(num_images,) which of `classes` each image is labelled with; -1 is absent."""
        graphs = self.classes.to(embedded.device)
        self.place_of_row[graphs.row] = graphs.label
        self.size = graphs.size
        """(C,) images of each class."""
        self.large = torch.nonzero(self.classes.size >= LEAST_IMAGES)[:, 0]
        """Places in `classes` of those with at least LEAST_IMAGES images."""

    @functools.cached_property
    def scale(self) -> Scale:
        """What cosines mean in this set, under its labels."""
        return measure_scale(self.embedded.rows, self.classes, torch_generator(0, "scale"))

    def ones(self) -> Tensor:
        """The weight of every image in a first pass, (num_images,)."""
        return torch.ones(self.embedded.num_images, device=self.embedded.device)

    def size_of_row(self) -> Tensor:
        """Images of each image's class, itself among them, (num_images,); 0 for an absent one."""
        return self.size[self.place_of_row.clamp(min=0)].where(self.place_of_row >= 0, 0)

    def only(self, chosen: Tensor) -> "LabelledSet":
        """The images (num_images,) bool alone, their labels taken for true."""
        label = self.label_of_row.where(chosen, -1)
        return LabelledSet(self.embedded, label.cpu().numpy(), self.config, label)

    def with_noise(self, seed: int, *parts: int | str) -> "LabelledSet":
        """The set under freshly planted noise, whose truth it knows."""
        label = fresh_noise(self.label_of_row.cpu().numpy(), seed, *parts)
        return LabelledSet(self.embedded, label, self.config, self.label_of_row)

    def some(
        self, classes: Tensor | None, most_images: int, seed: int, *parts: int | str
    ) -> Tensor:
        """Of these classes (all) at random as many as have `most_images` images, at least one."""
        if classes is None:
            classes = torch.arange(self.classes.num_classes)
        classes = classes[torch.from_numpy(numpy_generator(seed, *parts).permutation(len(classes)))]
        images = self.classes.size[classes].cumsum(0)
        return classes[(images <= most_images) | (images == images[:1])]

    def piece(self, classes: Tensor | None = None) -> Piece:
        """These classes (places in `self.classes`), or all of them, on the set's device."""
        graphs = self.classes if classes is None else self.classes.subset(classes)
        graphs = graphs.to(self.embedded.device)
        unit = self.embedded.rows(graphs.row)
        whole = Neighbourhoods(unit, graphs)
        nearest = class_neighbours(whole, graphs, self.config.num_neighbours)
        return Piece(self, graphs, unit, whole, *nearest, *self.embedded.context(graphs.row))

    def cut(self, max_nodes: int) -> list[Tensor]:
        """The large classes in runs of `max_nodes` images or less, and one class more."""
        size = self.classes.size[self.large]
        before = size.cumsum(0) - size
        count = torch.unique_consecutive(before // max_nodes, return_counts=True)[1]
        return list(torch.split(self.large, count.tolist()))


def canonical_frame(unit_embedding: Tensor, graphs: ClassGraphs) -> Tensor:
    """Each class turned by a Householder reflection: its mean to the first axis, (N, D)."""
    mean = torch.nn.functional.normalize(graphs.sum(unit_embedding))  # (C, D)
    axis = torch.zeros_like(mean)
    axis[:, 0] = 1
    normal = torch.nn.functional.normalize(mean - axis)[graphs.label]  # zero where they agree
    return unit_embedding - 2 * (unit_embedding * normal).sum(1, keepdim=True) * normal
