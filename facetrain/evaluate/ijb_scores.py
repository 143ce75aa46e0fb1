"""IJB's two questions put to unit templates: 1:1 over the pair list, 1:N over the galleries.

Pairs and probes are shared over the ranks; what they exchange is one similarity a pair.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.progress import progress
from facetrain.data.evaluation.ijb_metadata import IjbMetadata, Subjects
from facetrain.dist.collectives import data_errors_on_all, gather_rows
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.metrics.identification import Searches, identification, mean_identification, search
from facetrain.metrics.tar_conventions import tar_by_convention
from facetrain.metrics.template_pooling import pair_similarity
from facetrain.metrics.verification import (
    Bools,
    Floats,
    area_under,
    equal_error_rate,
    roc_counts,
    roc_rates,
    tar_at_far,
    threshold_at_far,
)


class ScoredPairs(NamedTuple):
    """All template pairs of a protocol, in file order.

    Attributes:
        similarity: (P,) cosine.
        same: (P,).
        template: (2, P) int32 rows of the templates of both sides.
    """

    similarity: Floats
    same: Bools
    template: NDArray[np.int32]


def score_pairs(unit_template: Floats, faces: IjbMetadata, mesh: Mesh) -> ScoredPairs:
    """Score every pair of the protocol, each rank a share; every rank returns all of them.

    Args:
        unit_template: (T, D) with unit rows.

    Raises:
        DataError: on every rank alike: the list is missing, malformed or empty, or a template is
            unknown.
    """
    none = np.zeros(0, np.int32)
    first, second, same = [none], [none], [none.astype(np.bool_)]
    with data_errors_on_all(mesh):
        blocks = faces.pairs(mesh.rank, mesh.world_size)
        for pairs in progress(blocks, "read pairs", unit="block", enabled=mesh.is_main):
            first.append(pairs.first.astype(np.int32))
            second.append(pairs.second.astype(np.int32))
            same.append(pairs.same)
    template = np.stack([np.concatenate(first), np.concatenate(second)])
    del first, second
    similarity = pair_similarity(unit_template, template[0], template[1])
    scored = ScoredPairs(
        gather_rows(similarity, mesh),
        gather_rows(np.concatenate(same).astype(np.uint8), mesh).astype(np.bool_),
        gather_rows(np.ascontiguousarray(template.T), mesh).T,
    )
    if not scored.same.any() or scored.same.all():
        raise DataError(
            f"{faces.pair_file}: must hold pairs of one person and of two, got "
            f"{int(scored.same.sum())} of one and {int((~scored.same).sum())} of two"
        )
    return scored


def one_to_one(pairs: ScoredPairs) -> dict[str, Any]:
    """The 1:1 numbers, under the names of the other verification sets.

    `accuracy` is None: IJB has no folds. `tar_at_far` never accepts more impostors than the FAR
    allows; `tar_at_far_nearest` is what the published tables print (see
    `metrics.tar_conventions`).
    """
    distance = -pairs.similarity  # only its order matters here
    genuine, impostor = roc_counts(distance, pairs.same)
    far, tar = roc_rates(genuine, impostor)
    nearest, interpolated = tar_by_convention(genuine, impostor)
    return {
        "accuracy": None,
        "accuracy_std": None,
        "tar_at_far": tar_at_far(distance, pairs.same),
        "threshold_at_far": {
            far: None if threshold is None else -threshold
            for far, threshold in threshold_at_far(distance, pairs.same).items()
        },
        "tar_at_far_nearest": nearest,
        "tar_at_far_interpolated": interpolated,
        "auc": area_under(far, tar),
        "eer": equal_error_rate(far, tar),
        "num_pairs": len(distance),
        "num_impostor_pairs": int((~pairs.same).sum()),
    }


def _search_gallery(
    unit_template: Floats, gallery: Subjects, probe: Subjects, mesh: Mesh
) -> dict[str, Any]:
    """1:N numbers of one gallery; each rank searches for its share of the probes."""
    start, stop = shard_range(len(probe.template), mesh.rank, mesh.world_size)
    local = search(
        unit_template[probe.template[start:stop]],
        probe.subject[start:stop],
        unit_template[gallery.template],
        gallery.subject,
    )
    return identification(
        Searches(
            gather_rows(local.rank, mesh),
            gather_rows(local.mate_similarity, mesh),
            gather_rows(local.other_similarity, mesh),
        )
    )


def identify_templates(
    unit_template: Floats, faces: IjbMetadata, mesh: Mesh
) -> dict[str, dict[str, Any]] | None:
    """The 1:N numbers of each gallery and their `mean`; None where the protocol's files are absent.

    Args:
        unit_template: (T, D) with unit rows.

    Raises:
        DataError: a malformed file, or a template without a face.
    """
    searches = faces.searches()
    if searches is None:
        return None
    galleries, probe = searches
    numbers = {
        name: _search_gallery(unit_template, gallery, probe, mesh)
        for name, gallery in galleries.items()
    }
    return numbers | {"mean": mean_identification(list(numbers.values()))}
