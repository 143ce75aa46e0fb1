"""Figures of a verification: ROC, DET, and the accuracy of each fold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from facetrain.report.curve import Curve, det_points, probit
from facetrain.report.pictures import COLOURS, STYLE, power_of_ten, save_figure

_SIZE = (5.6, 4.6)  # inches; two of them stand side by side
_TICKS = np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4])


def draw_roc(path: Path, curves: Mapping[str, Curve]) -> bool:
    """Draw TAR over FAR, FAR logarithmic, one curve a verification set.

    A curve starts where its set can measure: at one false accept in all its impostor pairs.

    Args:
        path: the PNG to write.
        curves: name -> its rates.

    Returns:
        Whether anything was drawn.
    """
    if not curves:
        return False
    with mpl.rc_context(STYLE):
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
                label=f"{name}   AUC {curve.area:.4f}",
            )
        axes.set_xscale("log")
        axes.set_xlim(max(lowest_far, 1e-6), 1)
        margin = 0.04 * (1 - lowest_tar)
        axes.set_ylim(lowest_tar - margin, 1 + margin)
        axes.xaxis.set_major_formatter(FuncFormatter(power_of_ten))
        axes.set_xlabel("false accept rate")
        axes.set_ylabel("true accept rate")
        axes.set_title("ROC")
        axes.legend(loc="lower right")
        save_figure(figure, path)
    return True


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def draw_det(path: Path, curves: Mapping[str, Curve]) -> bool:
    """Draw false rejects over false accepts, both on normal-quantile axes, one curve a set.

    Similarities that are normally distributed give a straight line; where it crosses the
    diagonal is the equal error rate.

    Args:
        path: the PNG to write.
        curves: name -> its rates.

    Returns:
        Whether anything was drawn: a set with both kinds of error at some threshold.
    """
    points = {name: det_points(curve) for name, curve in curves.items()}
    if not any(len(x) for x, _ in points.values()):
        return False
    every_x = np.concatenate([x for x, _ in points.values()])
    every_y = np.concatenate([y for _, y in points.values()])
    half = probit(np.array([0.5]))[0]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        for index, (name, (x, y)) in enumerate(points.items()):
            axes.plot(x, y, color=COLOURS[index % len(COLOURS)], label=name)
        ends = min(every_x.min(), every_y.min()) - 0.15, half + 0.1
        axes.plot(ends, ends, color="#d9d8d4", linewidth=1, zorder=0)
        axes.text(ends[1], ends[1], "equal errors ", ha="right", va="top", size=8, color="#75736c")
        axes.set_xlim(every_x.min() - 0.15, ends[1])
        axes.set_ylim(every_y.min() - 0.15, ends[1])
        places, names = probit(_TICKS), [_percent(tick) for tick in _TICKS.tolist()]
        axes.set_xticks(places, names)
        axes.set_yticks(places, names)
        axes.set_xlim(every_x.min() - 0.15, ends[1])  # ticks widen the limits
        axes.set_ylim(every_y.min() - 0.15, ends[1])
        axes.set_xlabel("false accepts")
        axes.set_ylabel("false rejects")
        axes.set_title("DET")
        axes.legend(loc="lower left")
        save_figure(figure, path)
    return True


def draw_fold_accuracy(path: Path, numbers: Mapping[str, Mapping[str, Any]]) -> bool:
    """Draw the accuracy of each fold, their mean and spread, a row a verification.

    Args:
        path: the PNG to write.
        numbers: name -> numbers; those without folds (IJB) are passed over.

    Returns:
        Whether anything was drawn.
    """
    folds = {name: one["fold_accuracy"] for name, one in numbers.items() if one.get("accuracy")}
    if not folds:
        return False
    with mpl.rc_context(STYLE):
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
        axes.set_yticks(range(len(folds)), list(folds))
        axes.set_ylim(len(folds) - 0.5, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("accuracy; a dot is a fold, the bar their mean and standard deviation")
        save_figure(figure, path)
    return True
