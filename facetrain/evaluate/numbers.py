"""The numbers of one set of pairs, as every kind of set reports them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.rng import numpy_generator
from facetrain.data.attributes import Attribute
from facetrain.metrics.bootstrap import accuracy_draws, identity_draws, interval, tar_draws
from facetrain.metrics.subgroups import subgroups
from facetrain.metrics.tar_conventions import tar_by_convention
from facetrain.metrics.verification import (
    Bools,
    Floats,
    Verification,
    fold_of_pairs,
    num_one_kind,
    roc_counts,
    verification,
)

_COPY = 1e-9  # squared distance of unit embeddings: that of float32's rounding
_SEED = 0  # equal pairs have equal intervals, wherever and whenever they are computed


def confidence_intervals(
    distance: Floats,
    same: Bools,
    num_folds: int | None,
    num_draws: int,
    identity: NDArray[np.integer[Any]] | None,
) -> dict[str, Any]:
    """`accuracy_interval`, `tar_at_far_interval` and `interval_over` ("identities" or "pairs").

    Args:
        distance: (P,).
        same: (P,).
        num_folds: None where there is no accuracy.
        num_draws: bootstrap replicates; 0 for no intervals.
        identity: (2, P) of both sides, where known.
    """
    if not num_draws:
        return {}
    generator = numpy_generator(_SEED, "bootstrap")
    accuracy = np.full(1, np.nan)
    if identity is not None:
        accuracy, tar = identity_draws(distance, same, identity, num_folds, num_draws, generator)
    else:
        if num_folds is not None:
            accuracy = accuracy_draws(distance, same, num_folds, num_draws, generator)
        tar = tar_draws(distance, same, num_draws, generator)
    return {
        "accuracy_interval": interval(accuracy),
        "tar_at_far_interval": {far: interval(draws) for far, draws in tar.items()},
        "interval_over": "pairs" if identity is None else "identities",
    }


def pair_numbers(
    distance: Floats,
    same: Bools,
    num_folds: int,
    num_draws: int,
    source: str,
    identity: NDArray[np.integer[Any]] | None = None,
) -> dict[str, Any]:
    """Every verification number of one set of image pairs, in the JSON form.

    Those of `metrics.verification.Verification`, `tar_at_far_nearest` and
    `tar_at_far_interpolated` (see `metrics.tar_conventions`), and `confidence_intervals`.

    Args:
        distance: (P,) squared L2 distance of unit embeddings, in file order.
        same: (P,).
        source: names the set in messages.
        identity: (2, P) of both sides, where known.

    Raises:
        DataError: as `metrics.verification.verification`.
    """
    try:
        found = verification(distance, same, num_folds)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    _warn(found, same, source)
    if copies := int((distance < _COPY).sum()):
        logger.warning(
            "%s: %d of %d pairs are of one image with itself (their embeddings are equal), which "
            "tells nothing of a network; remove them (%d are said to be of two people)",
            source, copies, len(same), (~same[distance < _COPY]).sum(),
        )  # fmt: skip
    numbers = found.numbers()
    nearest, interpolated = tar_by_convention(*roc_counts(distance, same))
    numbers |= {"tar_at_far_nearest": nearest, "tar_at_far_interpolated": interpolated}
    folds = None if found.accuracy is None else num_folds
    return numbers | confidence_intervals(distance, same, folds, num_draws, identity)


def _warn(found: Verification, same: Bools, source: str) -> None:
    """Say where the pairs do not fit the protocol."""
    num_folds = len(found.fold_accuracy)
    if found.accuracy is None:
        kind = "one person" if same.all() else "two people"
        logger.warning(
            "%s: all pairs are of %s, so it has no accuracy and no TAR; add pairs of the other "
            "kind",
            source, kind,
        )  # fmt: skip
    elif found.folds_dealt:
        logger.warning(
            "%s: its pairs are in order, so that some of %d folds would hold pairs of one kind "
            "only; same and different pairs were dealt to the folds, as for CALFW. Mix the pairs "
            "in the file to choose its folds",
            source, num_folds,
        )  # fmt: skip
    elif one_kind := num_one_kind(fold_of_pairs(same, num_folds), same, num_folds):
        logger.warning(
            "%s: %d of %d folds hold pairs of one kind only (of %d same and %d different pairs), "
            "which makes the accuracy less sure; mix the pairs, or give fewer folds (evaluate "
            "--folds, evaluate.num_folds)",
            source, one_kind, num_folds, same.sum(), (~same).sum(),
        )  # fmt: skip


def subgroup_numbers(
    attributes: Mapping[str, Attribute],
    place: NDArray[np.integer[Any]],
    distance: Floats,
    same: Bools,
) -> dict[str, Any]:
    """Attribute -> `thresholds`, `levels` (level -> numbers) and `across` ("a | b" -> numbers).

    Args:
        attributes: of N images, or templates.
        place: (2, P) which of them are in each pair.
        distance: (P,) squared L2 distance of unit embeddings.
        same: (P,).
    """
    results = {}
    for name, attribute in attributes.items():
        first, second = attribute.level[place]
        thresholds, groups = subgroups(distance, same, first, second)
        results[name] = {
            "thresholds": dataclasses.asdict(thresholds),
            "levels": {
                attribute.levels[group.levels[0]]: group.numbers()
                for group in groups
                if group.levels[0] == group.levels[1]
            },
            "across": {
                " | ".join(attribute.levels[level] for level in group.levels): group.numbers()
                for group in groups
                if group.levels[0] != group.levels[1]
            },
        }
    return results
