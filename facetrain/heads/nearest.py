"""The nearest class centres of one shard."""

import torch
from torch import Tensor

from facetrain.heads.sharded_softmax import LEAST_NORM, chunks, matmul, nearest_centre

_NO_COSINE = -2.0
"""Below every cosine: a place that no class fills."""


@torch.no_grad()
def nearest_rows(
    unit_embedding: Tensor,
    class_centre: Tensor,
    count: int,
    chunk_size: int | None,
    gemm_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The `count` rows of `class_centre` nearest to each embedding: cosine and row, (G, count).

    Args:
        unit_embedding: (G, D).
        class_centre: (C, D) or (C, K, D), not normalised; a class is as near as its nearest.
        count: where C is smaller, the rest has cosine -2 and row -1.
        chunk_size: classes at a time.
        gemm_dtype: precision of the products' inputs.
    """
    cosine = unit_embedding.new_full((len(unit_embedding), count), _NO_COSINE)
    row = torch.full(cosine.shape, -1, device=cosine.device)
    x = unit_embedding.to(gemm_dtype)
    centres = 1 if class_centre.ndim == 2 else class_centre.shape[1]
    for start, stop in chunks(len(class_centre), chunk_size):
        w = class_centre[start:stop].flatten(0, -2)  # (c K, D)
        norm = torch.linalg.vector_norm(w, dim=1).clamp_min(LEAST_NORM)
        of_chunk = matmul(x, w.t(), unit_embedding.dtype) / norm  # (G, c K)
        of_chunk, _ = nearest_centre(of_chunk, centres)  # (G, c)
        both = torch.cat([cosine, of_chunk], dim=1)
        rows = torch.arange(start, stop, device=row.device).expand(len(row), -1)
        cosine, place = largest(both, count)
        row = torch.cat([row, rows], dim=1).gather(1, place)
    return cosine, row


def largest(value: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, falling, and their places; of one, the first of equals."""
    if count == 1:
        place = value.argmax(1, keepdim=True)
        return value.gather(1, place), place
    top, place = value.topk(count, dim=1)
    return top, place
