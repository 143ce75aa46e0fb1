"""Templates: one embedding for a set of images of one person, and how alike two templates are.

Source: Whitelam et al., "IARPA Janus Benchmark-B Face Dataset", CVPRW 2017, and Maze et al.,
"IARPA Janus Benchmark - C", ICB 2018, pooled as the field does: the embeddings of one media (a
still, or the frames of one video) are averaged, the media of a template are summed. All sums are
float64 on the host.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.metrics.verification import Floats

Rows = NDArray[np.int64]
_PAIRS_AT_ONCE = 1 << 18  # 6 MB of places, and at most 64 MB of similarities
_DENSE_RATIO = 32  # a matrix product computes this many unwanted values in the time of one gather


def media_weight(template: Rows, media: Rows) -> Floats:
    """(N,): one over the number of images that share the image's template (N,) and media (N,).

    Averaging within media and summing over media is linear, so a template is the sum of its
    images, each with this weight; no array over media is needed. Media numbers are compared within
    a template only.
    """
    order = np.lexsort((media, template))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(template[order]) != 0) | (np.diff(media[order]) != 0)
    group = np.cumsum(new) - 1
    weight = np.empty(len(order))
    weight[order] = 1 / np.bincount(group)[group]
    return weight


def add_images(
    template_sum: Floats, embedding: NDArray[Any], template: Rows, weight: Floats
) -> None:
    """Add weighted image embeddings to their templates' sums, in place.

    Args:
        template_sum: (T, D), changed.
        embedding: (n, D) of some images.
        template: (n,) row of `template_sum` each image belongs to.
        weight: (n,) see `media_weight`; times whatever else an image counts by.
    """
    order = np.argsort(template, kind="stable")
    rows = template[order]
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    weighted = embedding[order].astype(np.float64) * weight[order, None]  # (n, D)
    template_sum[rows[first]] += np.add.reduceat(weighted, first, axis=0)


def pair_similarity(unit_template: Floats, first: Rows, second: Rows) -> Floats:
    """(P,) cosine similarity of the templates of each pair.

    Pairs are taken in the order of their first template, in blocks: where the pairs of a block
    fill enough of the (first x second) matrix, as in IJB (23 % of it), a matrix product is an
    order of magnitude faster than gathering two rows a pair. Peak memory beyond the result is
    about 0.2 GB and 16 bytes a pair.

    Args:
        unit_template: (T, D) with unit rows.
        first: (P,) rows of `unit_template`.
        second: (P,).
    """
    similarity = np.empty(len(first))
    order = np.argsort(first, kind="stable")
    for start in range(0, len(order), _PAIRS_AT_ONCE):
        block = order[start : start + _PAIRS_AT_ONCE]
        rows, row = np.unique(first[block], return_inverse=True)
        columns, column = np.unique(second[block], return_inverse=True)
        if len(rows) * len(columns) <= _DENSE_RATIO * len(block):
            matrix = unit_template[rows] @ unit_template[columns].T
            similarity[block] = matrix[row, column]
            continue
        for part in np.array_split(block, -(-len(block) // 4096)):
            similarity[part] = np.einsum(
                "pd,pd->p", unit_template[first[part]], unit_template[second[part]]
            )
    return similarity
