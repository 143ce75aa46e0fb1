"""Embeddings of a data set with their global kNN graph, whatever their labels are said to be."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from facetrain.graph.knn import KnnGraph

_ROWS_AT_ONCE = 1 << 16


class _Rows:
    """Rows of an array, on `device`: on CUDA held there if a quarter of what is free has room.

    Else they are read from the host, by rows, each time they are asked for.
    """

    def __init__(self, array: NDArray[Any], device: torch.device) -> None:
        self._array, self._device = array, device
        self._held: Tensor | None = None
        if device.type == "cuda" and array.nbytes <= torch.cuda.mem_get_info(device)[0] // 4:
            parts = np.array_split(array, max(1, len(array) // _ROWS_AT_ONCE))
            self._held = torch.cat([torch.from_numpy(np.array(p)).to(device) for p in parts])

    def __getitem__(self, row: Tensor) -> Tensor:
        """(n, ...) of the places `row` (n,)."""
        if self._held is not None:
            return self._held[row.to(self._device)]
        return torch.from_numpy(np.asarray(self._array[row.cpu().numpy()])).to(self._device)


class EmbeddedSet:
    """N embeddings, centred: the mean unit embedding is subtracted before cosines are taken.

    Some embeddings lie in a narrow cone (two strangers have a cosine of 0.85 under dlib's); with
    what all faces share gone, one scale fits all. On a CPU the arrays stay where they are, a memory
    map is read by rows; a GPU holds them if it can.

    Args:
        embedding: (N, D), rows of any length but zero.
        knn: its graph, by plain cosine.
        num_context: nearest images that `context` gives, at most what the graph has.
        device: where `rows` and `context` are put.
    """

    def __init__(
        self, embedding: NDArray[np.floating], knn: KnnGraph, num_context: int, device: torch.device
    ) -> None:
        self.num_images, self.size = embedding.shape
        self.device = device
        self._embedding = _Rows(embedding, device)
        self._neighbours = _Rows(knn.neighbours, device)
        self._similarity = _Rows(knn.similarity, device)
        self._num_context = num_context
        total = torch.zeros(embedding.shape[1], dtype=torch.float64)
        blocks = torch.split(torch.arange(self.num_images), _ROWS_AT_ONCE)
        for block in blocks:
            total += self._unit(block).sum(0, dtype=torch.float64).cpu()
        self._mean = (total / self.num_images).float().to(device)  # (D,)
        self._along = torch.cat([self._unit(block) @ self._mean for block in blocks])  # (N,)

    def _unit(self, row: Tensor) -> Tensor:
        return normalize(self._embedding[row].float(), dim=-1)

    def rows(self, row: Tensor) -> Tensor:
        """Centred unit embeddings (..., D) float32 of these images (...,)."""
        return normalize(self._unit(row) - self._mean, dim=-1)

    def centred(self, embedding: NDArray[np.floating]) -> Tensor:
        """Embeddings (n, D) of other images, seen from this set's centre: unit float32 rows."""
        other = torch.from_numpy(np.asarray(embedding, np.float32)).to(self.device)
        return normalize(normalize(other) - self._mean)

    def context(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest other images of these (n,): centred cosines, descending, and their rows.

        Both (n, K). The graph holds plain cosines; centred ones follow from them and each
        image's part along the mean, with no embedding read. Where the graph has no neighbour the
        row is -1 and the cosine -1.
        """
        neighbour, cosine = self._neighbours[row].long(), self._similarity[row].float()  # (n, K)
        if neighbour.shape[1] == 0:  # the only image of its set
            neighbour = neighbour.new_full((len(row), 1), -1)
            cosine = cosine.new_full((len(row), 1), -1.0)
        square = self._mean @ self._mean
        own, other = self._along[row.to(self.device)][:, None], self._along[neighbour]
        length = (1 - 2 * own + square) * (1 - 2 * other + square)
        centred = (cosine - own - other + square) / length.clamp(min=1e-6).sqrt()
        centred = centred.clamp(-1, 1).where(neighbour >= 0, -1.0)
        centred, order = centred.sort(dim=1, descending=True, stable=True)
        keep = slice(None, self._num_context)
        return centred[:, keep], neighbour.gather(1, order)[:, keep]
