"""Images grouped by class, and the similarities inside each class, for many classes at once."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SIZE_STEP = 1.25
"""Classes of sizes within this factor share a tile, so at most a third of it is padding."""


@dataclasses.dataclass(frozen=True)
class ClassGraphs:
    """Some classes of a data set; the images of one class stand next to each other.

    An image in this order is a node. `row` leads back to the data set.
    """

    row: Tensor  # (N,) int64, place of the node's image in the data set
    label: Tensor  # (N,) int64, class of the node, 0..C-1 in this object's own numbering
    class_id: Tensor  # (C,) int64, label the data set uses for the class
    start: Tensor  # (C + 1,) int64, first node of each class

    @property
    def num_nodes(self) -> int:
        """Number of images."""
        return len(self.row)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_id)

    @property
    def size(self) -> Tensor:
        """Images of each class, (C,)."""
        return self.start.diff()

    def to(self, device: torch.device) -> "ClassGraphs":
        """The same on `device`."""
        row, label = self.row.to(device), self.label.to(device)
        return ClassGraphs(row, label, self.class_id.to(device), self.start.to(device))

    def subset(self, classes: Tensor) -> "ClassGraphs":
        """The classes at these positions (C',), in that order."""
        size = self.size[classes]
        start = torch.cat([size.new_zeros(1), size.cumsum(0)])
        label = torch.repeat_interleave(torch.arange(len(classes), device=size.device), size)
        place = torch.arange(len(label), device=size.device) - start[label]
        row = self.row[self.start[classes][label] + place]
        return ClassGraphs(row, label, self.class_id[classes], start)

    def sum(self, value: Tensor) -> Tensor:
        """Sum of `value` (N, ...) over the nodes of each class, (C, ...)."""
        return value.new_zeros(self.num_classes, *value.shape[1:]).index_add_(0, self.label, value)

    def max(self, value: Tensor) -> Tensor:
        """The largest `value` (N,) of each class, (C,); 0 for a class whose values are below."""
        zero = value.new_zeros(self.num_classes)
        return zero.scatter_reduce(0, self.label, value, "amax")


def group_by_class(label: NDArray[np.integer]) -> ClassGraphs:
    """The classes of a data set of labels (N,), ascending; images with -1 belong to none."""
    row = np.argsort(label, kind="stable")
    row = row[label[row] >= 0]
    class_id, index, size = np.unique(label[row], return_inverse=True, return_counts=True)
    start = np.concatenate([[0], np.cumsum(size)])
    tensors = (torch.from_numpy(np.ascontiguousarray(a, np.int64)) for a in (row, index, class_id))
    rows, labels, ids = tensors
    return ClassGraphs(rows, labels, ids, torch.from_numpy(start.astype(np.int64)))


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """Nodes with all other nodes of their classes, most similar first."""

    node: Tensor  # (M,)
    neighbour: Tensor  # (M, P) nodes; past the class's end arbitrary
    similarity: Tensor  # (M, P) cosines, descending; -inf past the class's end


def neighbourhoods(
    unit_embedding: Tensor, graphs: ClassGraphs, max_pairs: int = 1 << 22
) -> Iterator[Neighbourhood]:
    """Every node with its whole class, in pieces of at most about `max_pairs` similarities.

    Classes of similar sizes are padded to one; a class too large for a piece is cut by rows. One
    node is in one piece. The order of equal similarities is that of the nodes. `unit_embedding`
    (N, D) has rows of length 1, by node.
    """
    size = graphs.size
    by_size = torch.argsort(size, stable=True)
    at = 0
    while at < graphs.num_classes:
        # Sizes ascend: take classes while the largest stays near the first and the piece fits.
        first = max(int(size[by_size[at]]), 2)
        limit = max(int(first * _SIZE_STEP), first + 1)
        count = max(1, max_pairs // (limit * limit))
        chosen = by_size[at : at + count]
        chosen = chosen[size[chosen] <= limit]
        at += len(chosen)
        width = int(size[chosen].max())
        member = graphs.start[chosen][:, None] + torch.arange(width, device=size.device)  # (G, P)
        real = torch.arange(width, device=size.device) < size[chosen][:, None]
        member = torch.where(real, member, -1)
        rows_at_once = max(1, max_pairs // (len(chosen) * width))
        for rows in torch.split(member, rows_at_once, dim=1):
            yield _neighbourhood(unit_embedding, rows, member)


def _neighbourhood(unit_embedding: Tensor, rows: Tensor, member: Tensor) -> Neighbourhood:
    """Rows (G, R) of G classes against their members (G, P); -1 is padding."""
    similarity = unit_embedding[rows] @ unit_embedding[member].mT  # (G, R, P)
    absent = (member < 0)[:, None, :] | (member[:, None, :] == rows[:, :, None])
    similarity.masked_fill_(absent, -torch.inf)
    real = rows >= 0
    ordered, order = similarity[real].sort(dim=1, descending=True, stable=True)  # (M, P)
    classes = torch.nonzero(real)[:, 0]
    neighbour = member[classes].gather(1, order).clamp(min=0)
    return Neighbourhood(rows[real], neighbour, ordered)


class Neighbourhoods:
    """The same, to be gone through again and again: kept where they are few, else made anew."""

    def __init__(
        self, unit_embedding: Tensor, graphs: ClassGraphs, most_kept: int = 1 << 23
    ) -> None:
        self._made_of = unit_embedding, graphs
        few = int(graphs.size.square().sum()) <= most_kept
        self._kept = list(neighbourhoods(*self._made_of)) if few else None

    def __iter__(self) -> Iterator[Neighbourhood]:
        return neighbourhoods(*self._made_of) if self._kept is None else iter(self._kept)


def class_neighbours(
    whole: Iterable[Neighbourhood], graphs: ClassGraphs, num_neighbours: int
) -> tuple[Tensor, Tensor]:
    """The nearest images of each image's own class: nodes and cosines, (N, K) each.

    K is `num_neighbours`, or less where every class is smaller. A class of n images gives n - 1
    neighbours; the slots past them hold node -1.
    """
    width = max(1, min(num_neighbours, int(graphs.size.max()) - 1))
    neighbour = torch.full((graphs.num_nodes, width), -1, device=graphs.row.device)
    similarity = torch.zeros(graphs.num_nodes, width, device=graphs.row.device)
    for piece in whole:
        real = piece.similarity[:, :width] > -torch.inf
        columns = real.shape[1]
        neighbour[piece.node, :columns] = piece.neighbour[:, :width].where(real, -1)
        similarity[piece.node, :columns] = piece.similarity[:, :width].where(real, 0.0)
    return neighbour, similarity
