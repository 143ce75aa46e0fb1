"""Face verification from pair distances: the ten-fold protocol of LFW and its kin, and the ROC.

Protocol: Huang et al., "Labeled Faces in the Wild", UMass Amherst TR 07-49, View 2, as the field
runs it on InsightFace `.bin` sets: squared L2 distance of unit embeddings, thresholds
0, 0.01, ..., 3.99, and folds that are consecutive runs of pairs in file order, unless those would
hold pairs of one kind. All arithmetic is float64 on the host; P log P in time.

Of P pairs, `distance` (P,) is in file order and lower where they are more alike; `same` (P,) says
whether a pair shows one person.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

THRESHOLDS: Floats = np.arange(0, 4, 0.01)
FAR_EXPONENTS = (1, 2, 3, 4, 5, 6)


@dataclasses.dataclass(frozen=True)
class Verification:
    """How well distances separate the same from different people."""

    accuracy: float | None
    """Mean over the folds, each at the threshold the other folds chose; None without both kinds of
    pair."""
    accuracy_std: float | None  # population standard deviation over the folds; None as the accuracy
    fold_accuracy: Floats  # (num_folds,); empty without an accuracy
    fold_threshold: Floats
    """(num_folds,) squared distance; below it a pair counts as the same person."""
    folds_dealt: bool  # whether the folds are not the file's (see `fold_of_pairs`)
    tar_at_far: dict[str, float | None]
    """FAR "1e-1".."1e-6" -> TAR; None where the pairs cannot tell (see `tar_at_far`)."""
    threshold_at_far: dict[str, float | None]
    """FAR "1e-1".."1e-6" -> the cosine above which a pair is accepted there."""
    auc: float | None  # area under the ROC; None without both kinds of pair
    eer: float | None  # equal error rate (see `equal_error_rate`); None without both kinds of pair
    num_pairs: int  # P
    num_impostor_pairs: int  # pairs of different people

    def numbers(self) -> dict[str, Any]:
        """The JSON form: plain numbers under the field's names."""
        values = dataclasses.asdict(self)
        values["fold_accuracy"] = self.fold_accuracy.tolist()
        values["fold_threshold"] = self.fold_threshold.tolist()
        return values


def pair_geometry(embedding: NDArray[Any]) -> tuple[Floats, Floats]:
    """Squared L2 distance of pairs' unit embeddings, and the norms (2P,) before normalising.

    Args:
        embedding: (2P, D); rows 2i and 2i+1 are pair i.

    Returns:
        distance (P,) in [0, 4] and norm (2P,). A row that is zero or not finite gives a norm that
        is zero or not finite and a NaN distance; `check_norms` turns it into an error.
    """
    embedding = np.asarray(embedding, np.float64)  # (2P, D)
    norm = np.sqrt(np.einsum("nd,nd->n", embedding, embedding))  # (2P,)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit_embedding = embedding / norm[:, None]
        difference = unit_embedding[0::2] - unit_embedding[1::2]  # (P, D)
    return np.einsum("pd,pd->p", difference, difference), norm


def check_norms(norm: Floats, source: str) -> None:
    """Refuse embeddings without a direction.

    Raises:
        DataError: a norm is zero or not finite; names the first rows.
    """
    bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
    if bad.size:
        rows = ", ".join(str(row) for row in bad[:10]) + (", ..." if bad.size > 10 else "")
        raise DataError(
            f"{source}: no embedding may be zero, infinite or NaN, but {bad.size} of {norm.size} "
            f"are (rows {rows}); check the weights, and these images"
        )


def threshold_cell(distance: Floats) -> NDArray[np.intp]:
    """(P,): place in THRESHOLDS of the first one above each distance; their number where none is.

    A pair is accepted at that threshold and at every later one.
    """
    return np.searchsorted(THRESHOLDS, distance, side="right")


def _num_correct(
    distance: Floats, same: Bools, fold: NDArray[np.intp], num_folds: int
) -> NDArray[np.int64]:
    """(num_folds, len(THRESHOLDS)): pairs judged rightly when "below the threshold" means same."""
    width = len(THRESHOLDS) + 1
    cell = fold * width + threshold_cell(distance)
    gain = np.where(same, 1.0, -1.0)  # what accepting the pair does to the count; exact in float64
    change = np.bincount(cell, weights=gain, minlength=num_folds * width)
    rejected_rightly = np.bincount(fold, weights=~same, minlength=num_folds)[:, None]
    correct = rejected_rightly + change.reshape(num_folds, width)[:, :-1].cumsum(axis=1)
    return np.asarray(correct, np.int64)


def _runs(num_pairs: int, num_folds: int) -> NDArray[np.intp]:
    """(num_pairs,) fold of each: runs; the first num_pairs % num_folds have one pair more."""
    size = np.full(num_folds, num_pairs // num_folds)
    size[: num_pairs % num_folds] += 1
    return np.repeat(np.arange(num_folds), size)


def fold_of_pairs(same: Bools, num_folds: int) -> NDArray[np.intp]:
    """(P,) fold of each pair: consecutive runs, the field's convention, where that can serve.

    Not every run can hold both kinds where the kinds change less than `num_folds` times, as in a
    file of all same pairs and then all different ones. Such folds choose thresholds on one mixture
    of pairs and judge another, so there each kind is cut into runs by itself, if it has enough.
    """
    fold = _runs(len(same), num_folds)
    in_order = np.count_nonzero(same[1:] != same[:-1]) < num_folds
    if in_order and min(same.sum(), (~same).sum()) >= num_folds:
        for kind in (same, ~same):
            fold[kind] = _runs(int(kind.sum()), num_folds)
    return fold


def num_one_kind(fold: NDArray[np.intp], same: Bools, num_folds: int) -> int:
    """Folds in which all pairs show one person, or none does."""
    num_same = np.bincount(fold, same, num_folds)
    return int(((num_same == 0) | (num_same == np.bincount(fold, minlength=num_folds))).sum())


def fold_accuracy(distance: Floats, same: Bools, num_folds: int) -> tuple[Floats, Floats]:
    """Accuracy (num_folds,) at the threshold (num_folds,) that is best on all other folds; both.

    Of equally good thresholds the lowest is taken, as in arcface_torch. From 2 to P folds.
    """
    fold = fold_of_pairs(same, num_folds)
    correct = _num_correct(distance, same, fold, num_folds)  # (num_folds, len(THRESHOLDS))
    best = (correct.sum(axis=0) - correct).argmax(axis=1)  # (num_folds,), on the other folds
    accuracy = correct[np.arange(num_folds), best] / np.bincount(fold)
    return accuracy, THRESHOLDS[best]


def best_threshold(distance: Floats, same: Bools) -> float:
    """The threshold of the grid that judges most pairs rightly; the middle one of equals.

    Unlike the lowest of equals, the middle one is not at the edge of a wide gap, and so carries
    over to other pairs.
    """
    correct = _num_correct(distance, same, np.zeros(len(distance), np.intp), 1)[0]
    best = np.flatnonzero(correct == correct.max())
    return float(THRESHOLDS[best[len(best) // 2]])


def roc_counts(distance: Floats, same: Bools) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of each kind accepted at each distinct distance, the nearest first.

    Returns:
        genuine and impostor, both (points,), never falling. Pairs at equal distance are accepted
        together, so ties make a slanted segment rather than a favourable corner.
    """
    order = np.argsort(distance, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(distance[order])), len(order) - 1)
    genuine = np.cumsum(same[order])[last_of_ties]
    return genuine, last_of_ties + 1 - genuine


def roc_rates(genuine: NDArray[np.int64], impostor: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """FAR and TAR (points + 1,) of `roc_counts`, from (0, 0) to (1, 1); both kinds present."""
    far = np.concatenate(([0.0], impostor / impostor[-1]))
    tar = np.concatenate(([0.0], genuine / genuine[-1]))
    return far, tar


def roc(distance: Floats, same: Bools) -> tuple[Floats, Floats]:
    """The ROC, one point per distinct distance, from (0, 0) to (1, 1); see `roc_counts`.

    Returns:
        far and tar, both (points,) and never falling.
    """
    return roc_rates(*roc_counts(distance, same))


def threshold_at_far(
    distance: Floats, same: Bools, exponents: Sequence[int] = FAR_EXPONENTS
) -> dict[str, float | None]:
    """The distance below which pairs are accepted at FAR 1e-1 ... 1e-6, over all pairs.

    The largest threshold at which the false accepts do not exceed FAR x impostor pairs: the
    distance of the first impostor beyond. Below one expected false accept (fewer than 1 / FAR
    impostor pairs) the set cannot measure that FAR, and the value is None.
    """
    impostor = np.sort(distance[~same])
    values: dict[str, float | None] = {}
    for exponent in exponents:
        allowed = len(impostor) // 10**exponent  # exact, where FAR x count would round
        values[f"1e-{exponent}"] = float(impostor[allowed]) if allowed else None
    return values


def tar_at_far(distance: Floats, same: Bools) -> dict[str, float | None]:
    """TAR at FAR 1e-1 ... 1e-6 over all pairs, by the conservative convention.

    A pair is accepted when its distance is below `threshold_at_far`. Nothing is interpolated, and
    with ties at the threshold none of the tied pairs is accepted. None where the set cannot
    measure that FAR.
    """
    genuine = np.sort(distance[same])
    return {
        far: float(np.searchsorted(genuine, threshold, side="left") / len(genuine))
        if threshold is not None and len(genuine)
        else None
        for far, threshold in threshold_at_far(distance, same).items()
    }


def equal_error_rate(far: Floats, tar: Floats) -> float:
    """The rate at which FAR equals 1 - TAR, on the straight ROC segment where they cross."""
    gap = far - (1 - tar)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = after - 1
    part = -gap[before] / (gap[after] - gap[before])
    return float(far[before] + part * (far[after] - far[before]))


def area_under(far: Floats, tar: Floats) -> float:
    """Area under the ROC by trapezoids: the chance that a same pair is nearer than another."""
    return float(np.sum(np.diff(far) * (tar[1:] + tar[:-1]) / 2))


def check_folds(same: Bools, num_folds: int) -> None:
    """Raises DataError where pairs of both kinds (P,) are fewer than the folds of the accuracy."""
    if same.any() and not same.all() and not 2 <= num_folds <= len(same):
        raise DataError(
            f"the accuracy in {num_folds} folds needs at least 2 folds and a pair in each, got "
            f"{len(same)} pairs; give fewer folds (evaluate --folds, evaluate.num_folds)"
        )


def verification(distance: Floats, same: Bools, num_folds: int = 10) -> Verification:
    """Every verification number of one set of pairs, by squared L2 distance of unit embeddings.

    Args:
        num_folds: folds of the accuracy; 10 in the field.

    Raises:
        DataError: pairs of both kinds, but fewer than folds, or a distance that is not finite.
    """
    distance, same = np.asarray(distance, np.float64), np.asarray(same, np.bool_)
    assert distance.shape == same.shape == (len(same),)
    if not np.isfinite(distance).all():
        bad = np.flatnonzero(~np.isfinite(distance))[:10].tolist()
        raise DataError(f"distances must be finite, but pairs {bad} are not; check the embeddings")
    auc = eer = None
    accuracy, threshold, dealt = np.zeros(0), np.zeros(0), False
    check_folds(same, num_folds)
    if same.any() and not same.all():
        accuracy, threshold = fold_accuracy(distance, same, num_folds)
        dealt = not np.array_equal(fold_of_pairs(same, num_folds), _runs(len(same), num_folds))
        far, tar = roc(distance, same)
        auc, eer = area_under(far, tar), equal_error_rate(far, tar)
    return Verification(
        accuracy=float(accuracy.mean()) if accuracy.size else None,
        accuracy_std=float(accuracy.std()) if accuracy.size else None,
        fold_accuracy=accuracy,
        fold_threshold=threshold,
        folds_dealt=dealt,
        tar_at_far=tar_at_far(distance, same),
        threshold_at_far={
            far: None if value is None else 1 - value / 2  # of unit embeddings
            for far, value in threshold_at_far(distance, same).items()
        },
        auc=auc,
        eer=eer,
        num_pairs=len(distance),
        num_impostor_pairs=int((~same).sum()),
    )
