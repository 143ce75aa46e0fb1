"""Bootstrap confidence intervals of verification numbers: how far another draw of the set may lie.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993: percentile intervals. What
is drawn again, with replacement, is either

- pairs: within each fold for the accuracy, within each kind (genuine, impostor) for TAR at FAR.
  Right when pairs share nothing; too narrow when one person is in many of them; or
- identities (the subsets bootstrap of Bolle, Ratha and Pankanti, "Error analysis of pattern
  recognition systems: the subsets bootstrap", CVIU 93(1), 2004): an identity drawn k times brings
  its genuine pairs k times, and an impostor pair counts by the product of its two identities.
  Copies of one identity are never compared with each other.

The threshold is chosen anew in every draw, so its uncertainty is part of the interval. `distance`
and `same` (P,) are those of `metrics.verification`, `num_draws` the replicates.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.metrics.verification import (
    FAR_EXPONENTS,
    THRESHOLDS,
    Bools,
    Floats,
    fold_of_pairs,
    threshold_cell,
)

CONFIDENCE = 0.95
_WIDTH = len(THRESHOLDS) + 1
_DRAWS_AT_ONCE = 50  # times folds x thresholds x 2: 3 MB for ten folds


def interval(draws: Floats) -> list[float] | None:
    """[low, high] of the middle 95 % of `draws` (draws,); None where a draw has no value."""
    if np.isnan(draws).any():
        return None
    tail = (1 - CONFIDENCE) / 2
    return [float(value) for value in np.quantile(draws, [tail, 1 - tail])]


def _mean_fold_accuracy(cells: Floats) -> Floats:
    """(draws,) accuracy of weighted pairs (draws, num_folds, 2, _WIDTH): kind, threshold cell."""
    different, same = cells[:, :, 0], cells[:, :, 1]
    accepted = (same - different)[..., :-1].cumsum(axis=2)
    correct = different.sum(axis=2, keepdims=True) + accepted  # (draws, num_folds, thresholds)
    best = (correct.sum(axis=1, keepdims=True) - correct).argmax(axis=2)[..., None]
    chosen = np.take_along_axis(correct, best, axis=2)[..., 0]  # (draws, num_folds)
    total = cells.sum(axis=(2, 3))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(chosen / total, axis=1))  # a fold may draw no pair at all


def accuracy_draws(
    distance: Floats,
    same: Bools,
    num_folds: int,
    num_draws: int,
    generator: np.random.Generator,
) -> Floats:
    """(num_draws,) ten-fold accuracy of pairs drawn again within their folds."""
    fold = fold_of_pairs(same, num_folds)
    cell = (fold * 2 + same) * _WIDTH + threshold_cell(distance)
    count = np.bincount(cell, minlength=num_folds * 2 * _WIDTH).reshape(num_folds, -1)
    parts = []
    for start in range(0, num_draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, num_draws - start)
        drawn = np.zeros((size, num_folds, 2 * _WIDTH))
        for k, row in enumerate(count):
            filled = np.flatnonzero(row)  # a multinomial draw costs time for empty cells too
            total = int(row.sum())
            drawn[:, k, filled] = generator.multinomial(total, row[filled] / total, size)
        parts.append(_mean_fold_accuracy(drawn.reshape(size, num_folds, 2, _WIDTH)))
    return np.concatenate(parts)


def tar_draws(
    distance: Floats, same: Bools, num_draws: int, generator: np.random.Generator
) -> dict[str, Floats]:
    """FAR -> (num_draws,) TAR of pairs drawn again within their kind; NaN where not measurable.

    Nothing of length P is drawn. Of N impostors drawn again, the k-th nearest is the original of
    rank ceil(N U), U the k-th smallest of N uniform numbers, which is Beta(k, N - k + 1); and of
    the genuine pairs a binomial number lies below that threshold. The distribution is exactly
    that of drawing every pair.
    """
    genuine, impostor = np.sort(distance[same]), np.sort(distance[~same])
    draws = {}
    for exponent in FAR_EXPONENTS:
        allowed = len(impostor) // 10**exponent
        tar = np.full(num_draws, np.nan)
        if allowed and len(genuine):
            uniform = generator.beta(allowed + 1, len(impostor) - allowed, num_draws)
            rank = np.minimum((uniform * len(impostor)).astype(np.int64), len(impostor) - 1)
            accepted = np.searchsorted(genuine, impostor[rank], side="left") / len(genuine)
            tar = generator.binomial(len(genuine), accepted) / len(genuine)
        draws[f"1e-{exponent}"] = tar
    return draws


def identity_draws(
    distance: Floats,
    same: Bools,
    identity: NDArray[np.integer[Any]],
    num_folds: int | None,
    num_draws: int,
    generator: np.random.Generator,
) -> tuple[Floats, dict[str, Floats]]:
    """The draws of `accuracy_draws` and `tar_draws` with identities drawn again; draws x P in time.

    Args:
        distance: (P,) squared distance of unit embeddings; only its order matters to TAR.
        identity: (2, P), the identities of both sides, from 0 on without large gaps.
        num_folds: None leaves the accuracy NaN.

    Returns:
        accuracy (num_draws,), and FAR -> TAR (num_draws,); NaN where a draw has no value.
    """
    # What no draw changes: pairs by distance, and the cell of each pair in the folds' histograms.
    order = np.argsort(distance, kind="stable")
    genuine_order, impostor_order = order[same[order]], order[~same[order]]
    genuine, impostor = distance[genuine_order], distance[impostor_order]
    owner = identity[0, genuine_order]
    first, second = identity[:, impostor_order].astype(np.int32)
    present = np.flatnonzero(np.bincount(identity.reshape(-1)))
    accuracy = np.full(num_draws, np.nan)
    tar = {f"1e-{exponent}": np.full(num_draws, np.nan) for exponent in FAR_EXPONENTS}
    copies = np.zeros(int(present[-1]) + 1)  # whole numbers
    if num_folds is not None:
        fold = fold_of_pairs(same, num_folds)
        cell = (fold * 2 + same) * _WIDTH + threshold_cell(distance)
    for draw in range(num_draws):
        copies[present] = generator.multinomial(
            len(present), np.full(len(present), 1 / len(present))
        )
        if num_folds is not None:
            weight = copies[identity[0]] * np.where(same, 1.0, copies[identity[1]])
            cells = np.bincount(cell, weight, minlength=num_folds * 2 * _WIDTH).astype(np.float64)
            accuracy[draw] = _mean_fold_accuracy(cells.reshape(1, num_folds, 2, _WIDTH))[0]
        false_accepts = _RunningWeight(copies, first, second)
        accepted = np.concatenate(([0.0], np.cumsum(copies[owner])))
        for exponent in FAR_EXPONENTS:
            allowed = false_accepts.total // 10**exponent
            if allowed and accepted[-1]:
                threshold = impostor[false_accepts.first_beyond(allowed)]
                below = np.searchsorted(genuine, threshold, side="left")
                tar[f"1e-{exponent}"][draw] = accepted[below] / accepted[-1]
    return accuracy, tar


class _RunningWeight:
    """Where the running weight of pairs passes a value, without an array of it.

    The weight of a pair is the product of its identities' copies. Only the sums of blocks are
    kept, and a block fits a core's cache, which a running sum of IJB-C's 15.6 million does not.
    """

    _BLOCK = 1 << 16

    def __init__(self, copies: Floats, first: NDArray[np.int32], second: NDArray[np.int32]) -> None:
        self._copies, self._first, self._second = copies, first, second
        sums = [
            float(np.dot(copies[first[block]], copies[second[block]]))
            for start in range(0, len(first), self._BLOCK)
            for block in [slice(start, start + self._BLOCK)]
        ]
        self._before = np.concatenate(([0.0], np.cumsum(sums)))
        self.total = int(self._before[-1])

    def first_beyond(self, allowed: int) -> int:
        """The first pair with which the weight is more than `allowed`, which is below the total."""
        block = int(np.searchsorted(self._before, allowed, side="right")) - 1
        rows = slice(block * self._BLOCK, (block + 1) * self._BLOCK)
        weight = np.cumsum(self._copies[self._first[rows]] * self._copies[self._second[rows]])
        inside = np.searchsorted(weight, allowed - self._before[block], side="right")
        return block * self._BLOCK + int(inside)
