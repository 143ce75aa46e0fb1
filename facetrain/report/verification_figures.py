"""Figures of a verification: ROC, DET, folds, subgroups, and the pairs that are hardest."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from facetrain.data.evaluation.paired_faces import PairedFaces
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.metrics.verification import Bools, Floats, area_under, roc
from facetrain.report.style import COLOURS, STYLE, literal, power_of_ten

_FACE_SIZE = 112  # pixels
_RIGHT, _WRONG = "#37352f", "#c4372b"
_probit = np.vectorize(statistics.NormalDist().inv_cdf, otypes=[np.float64])


class Curve(NamedTuple):
    """TAR over FAR.

    Attributes:
        far: ascending, from 0.
        tar: of the same length; at no more than `far`.
        smallest_far: one false accept in all impostor pairs.
        smallest_fnr: one false reject in all pairs of one person.
        area: under the curve.
    """

    far: Floats
    tar: Floats
    smallest_far: float
    smallest_fnr: float
    area: float

    @classmethod
    def of(cls, distance: Floats, same: Bools) -> "Curve | None":
        """From distance (P,) and same (P,); None without pairs of both kinds."""
        if not same.any() or same.all():
            return None
        far, tar = roc(distance, same)
        num_impostor = int(np.count_nonzero(~same))
        return cls(far, tar, 1 / num_impostor, 1 / (len(same) - num_impostor), area_under(far, tar))

    @classmethod
    def read(cls, path: Path, num_pairs: int, num_impostor_pairs: int) -> "Curve":
        """From the `.npz` with `far` and `tar` that IJB leaves."""
        with np.load(path, allow_pickle=False) as arrays:
            far, tar = arrays["far"], arrays["tar"]
        genuine = num_pairs - num_impostor_pairs
        return cls(far, tar, 1 / num_impostor_pairs, 1 / genuine, area_under(far, tar))


def probit(share: Floats) -> Floats:
    """The normal quantile of each share in (0, 1)."""
    return np.asarray(_probit(share), np.float64)


def det_points(curve: Curve) -> tuple[Floats, Floats]:
    """False accept and false reject rate, both as normal quantiles (Martin et al., 1997).

    Only where both can be measured: one pair at least on either side.
    """
    fnr = 1 - curve.tar
    tiny = 1e-12  # 1 - tar of one pair may lie below 1 / pairs
    measured = (curve.far >= curve.smallest_far - tiny) & (fnr >= curve.smallest_fnr - tiny)
    measured &= (curve.far < 1) & (fnr < 1)
    return probit(curve.far[measured]), probit(fnr[measured])


_SIZE = (5.6, 4.6)  # inches; two of them stand side by side
_TICKS = np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4])


@mpl.rc_context(STYLE)
def roc_figure(curves: Mapping[str, Curve]) -> Figure | None:
    """TAR over FAR, FAR logarithmic, one curve a verification set.

    A curve starts where its set can measure: at one false accept in all its impostor pairs.

    Returns:
        None where there is nothing to draw.
    """
    if not curves:
        return None
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    lowest_far, lowest_tar = 0.1, 0.95
    for index, (name, curve) in enumerate(curves.items()):
        far, tar, smallest = curve.far, curve.tar, curve.smallest_far
        # TAR at no more than FAR: right-continuous steps, never a line between points.
        start = int(np.searchsorted(far, smallest, side="right")) - 1
        x = np.concatenate(([smallest], far[start + 1 :]))
        y = np.concatenate(([tar[start]], tar[start + 1 :]))
        lowest_far, lowest_tar = min(lowest_far, smallest), min(lowest_tar, float(y[0]))
        axes.step(
            x,
            y,
            where="post",
            color=COLOURS[index % len(COLOURS)],
            label=f"{literal(name)}   AUC {curve.area:.4f}",
        )
    margin = 0.04 * (1 - lowest_tar)
    axes.set(xscale="log", xlim=(max(lowest_far, 1e-6), 1))
    axes.set(ylim=(lowest_tar - margin, 1 + margin))
    axes.xaxis.set_major_formatter(FuncFormatter(power_of_ten))
    axes.set(title="ROC", xlabel="false accept rate", ylabel="true accept rate")
    axes.legend(loc="lower right")
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


@mpl.rc_context(STYLE)
def det_figure(curves: Mapping[str, Curve]) -> Figure | None:
    """False rejects over false accepts, both on normal-quantile axes, one curve a set.

    Similarities that are normally distributed give a straight line; where it crosses the
    diagonal is the equal error rate.

    Returns:
        None without a set with both kinds of error at some threshold.
    """
    points = {name: det_points(curve) for name, curve in curves.items()}
    if not any(len(x) for x, _ in points.values()):
        return None
    every_x = np.concatenate([x for x, _ in points.values()])
    every_y = np.concatenate([y for _, y in points.values()])
    half = probit(np.array([0.5]))[0]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(points.items()):
        axes.plot(x, y, color=COLOURS[index % len(COLOURS)], label=literal(name))
    ends = min(every_x.min(), every_y.min()) - 0.15, half + 0.1
    axes.plot(ends, ends, color="#d9d8d4", linewidth=1, zorder=0)
    axes.text(ends[1], ends[1], "equal errors ", ha="right", va="top", size=8, color="#75736c")
    places, names = probit(_TICKS), [_percent(tick) for tick in _TICKS.tolist()]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    # After the ticks, which widen the limits.
    axes.set(xlim=(every_x.min() - 0.15, ends[1]), ylim=(every_y.min() - 0.15, ends[1]))
    axes.set(title="DET", xlabel="false accepts", ylabel="false rejects")
    axes.legend(loc="lower left")
    return figure


@mpl.rc_context(STYLE)
def fold_figure(numbers: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """The accuracy of each fold, their mean and spread, a row a verification.

    Args:
        numbers: name -> numbers; those without folds (IJB) are passed over.

    Returns:
        None where there is nothing to draw.
    """
    folds = {name: one["fold_accuracy"] for name, one in numbers.items() if one.get("accuracy")}
    if not folds:
        return None
    figure = Figure(figsize=(10.4, 0.8 + 0.46 * len(folds)), layout="constrained")
    axes: Axes = figure.subplots()
    for place, (name, accuracy) in enumerate(folds.items()):
        colour = COLOURS[place % len(COLOURS)]
        mean, spread = numbers[name]["accuracy"], numbers[name]["accuracy_std"]
        axes.plot(accuracy, [place] * len(accuracy), "o", color=colour, alpha=0.35, ms=5)
        axes.errorbar(mean, place, xerr=spread, color=colour, capsize=4, marker="|", ms=16)
        axes.annotate(
            f"{mean:.4f}", (mean, place), (0, 9), textcoords="offset points", ha="center",
            size=8, color=colour,
        )  # fmt: skip
    axes.set_yticks(range(len(folds)), [literal(name) for name in folds])
    axes.set_ylim(len(folds) - 0.5, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("accuracy; a dot is a fold, the bar their mean and standard deviation")
    return figure


_FARS = ("1e-4", "1e-3", "1e-2", "1e-1")


def _smallest_far(subgroups: Mapping[str, Any]) -> str | None:
    """The smallest FAR at which some subgroup has a TAR."""
    for far in _FARS:
        if any(row["tar_at_far"].get(far) is not None for row in subgroups.values()):
            return far
    return None


def _draw_rates(axes: Axes, rows: Mapping[str, Any], key: str, far: str | None) -> None:
    """One rate a row, with its interval as a bar."""
    for place, row in enumerate(rows.values()):
        value = row[key] if far is None else row[key][far]
        interval = row[f"{key}_interval"] if far is None else row[f"{key}_interval"][far]
        if value is not None and interval is not None:
            axes.plot(interval, [place, place], color=COLOURS[0], alpha=0.35, linewidth=5)
            axes.plot([value], [place], "o", color=COLOURS[0], markersize=5)


@mpl.rc_context(STYLE)
def subgroup_figure(title: str, attribute: Mapping[str, Any]) -> Figure | None:
    """Accuracy, TAR and own FAR of each level and of each two levels, with 95 % intervals.

    All are at thresholds that all pairs together chose. Where the intervals of two rows do not
    meet, the subgroups differ by more than chance, as far as pairs are independent.

    Args:
        attribute: `thresholds`, `levels` and `across` of `evaluate.numbers.subgroup_numbers`.

    Returns:
        None without two rows at least.
    """
    rows = {**attribute["levels"], **attribute["across"]}
    if len(rows) < 2:
        return None
    far = _smallest_far(rows)
    panels: list[tuple[str, str, str | None]] = [("accuracy", "accuracy", None)]
    if far is not None:
        panels += [
            (f"TAR at FAR {far} over all", "tar_at_far", far),
            ("FAR at that threshold", "own_far", far),
        ]
    height = 1.2 + 0.28 * len(rows)
    figure = Figure(figsize=(3.4 * len(panels) + 1.4, height), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, key, at) in zip(all_axes, panels, strict=True):
        _draw_rates(axes, rows, key, at)
        axes.set_title(name)
        axes.axhline(len(attribute["levels"]) - 0.5, color="#b9b7b0", linewidth=0.8)
    if far is not None:
        all_axes[2].axvline(float(far), color=COLOURS[1], linewidth=1)
    labels = [f"{literal(name)}  ({row['num_pairs']:,})" for name, row in rows.items()]
    all_axes[0].set_yticks(range(len(rows)), labels)
    all_axes[0].invert_yaxis()
    figure.suptitle(literal(title), x=0.01, ha="left", fontsize=11)
    return figure


def hardest_pairs(distance: Floats, same: Bools, count: int) -> tuple[list[int], list[int]]:
    """The `count` same pairs farthest apart, and different pairs nearest, worst first."""
    order = np.argsort(distance, kind="stable")
    genuine, impostor = order[same[order]][::-1], order[~same[order]]
    return genuine[:count].tolist(), impostor[:count].tolist()


@mpl.rc_context({"font.size": 8})
def hardest_pairs_figure(
    pairs: VerificationSet | PairedFaces,
    distance: Floats,
    threshold: float,
    *,
    count: int = 10,
) -> Figure:
    """The hardest pairs of each kind: same people on the left, different ones on the right.

    Each pair has its cosine, in red when the model judges it wrongly.

    Args:
        distance: (P,) squared L2 distance of unit embeddings.
        threshold: squared distance below which a pair counts as the same person.
    """
    columns = 2
    genuine, impostor = hardest_pairs(distance, np.asarray(pairs.same, np.bool_), count)
    rows = -(-max(len(genuine), len(impostor)) // columns)
    figure = Figure(figsize=(9, rows * 1.23 + 0.4), layout="constrained")
    halves: Any = figure.subfigures(1, 2, wspace=0.03)
    titles = ("same person, farthest apart", "different people, nearest")
    for half, rows_of_kind, title in zip(halves, (genuine, impostor), titles, strict=True):
        is_same = rows_of_kind is genuine
        wrong = [(distance[pair] < threshold) != is_same for pair in rows_of_kind]
        half.suptitle(
            f"{title}: {sum(wrong)} of {len(wrong)} wrong",
            x=0.01,
            ha="left",
            fontsize=9,
            fontweight="bold",
        )
        grid = half.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, pair, is_wrong in zip(grid.flat, rows_of_kind, wrong, strict=False):
            faces = [pairs.decode(2 * pair + side, _FACE_SIZE) for side in (0, 1)]
            axes.imshow(np.concatenate(faces, axis=1))
            axes.set_title(
                f"pair {pair}   cosine {1 - distance[pair] / 2:.2f}",
                fontsize=7, pad=2, color=_WRONG if is_wrong else _RIGHT,
            )  # fmt: skip
    return figure
