"""Figures of a cleaning: how sure it was, and how much noise it sees in each class."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from facetrain.report.pictures import COLOURS, STYLE, save_figure

CLEAN_COLOUR, NOISE_COLOUR = COLOURS[0], COLOURS[1]
_NUM_BINS = 25


def draw_clean_probability(
    path: Path,
    clean_probability: NDArray[Any],
    threshold: NDArray[Any],
    is_clean: NDArray[np.bool_] | None = None,
) -> None:
    """Draw how the clean probabilities are distributed, over the thresholds of the classes.

    Counts are logarithmic: nearly all images lie at the ends, and what matters lies between.

    Args:
        path: the PNG to write.
        clean_probability: (N,) in [0, 1].
        threshold: (num_classes,) in [0, 1]; NaN for a class without images.
        is_clean: (N,) the truth, where it is known; then noise has a colour of its own.
    """
    bins = np.linspace(0, 1, _NUM_BINS + 1)
    groups = {"images": clean_probability}
    if is_clean is not None:
        groups = {"noise": clean_probability[~is_clean], "clean": clean_probability[is_clean]}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.6), layout="constrained")
        images, classes = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
        images.hist(
            list(groups.values()),
            bins,
            color=[NOISE_COLOUR if name == "noise" else CLEAN_COLOUR for name in groups],
            label=[f"{name} ({len(values):,})" for name, values in groups.items()],
        )
        images.set_axisbelow(True)
        classes.set_axisbelow(True)
        images.set_yscale("log")
        images.set_title("images by clean probability")
        if is_clean is not None:
            images.legend(loc="upper center")
        classes.hist(threshold[~np.isnan(threshold)], bins, color="#75736c")
        classes.set_title("classes by threshold")
        classes.set_xlim(0, 1)
        classes.set_xlabel("kept above the threshold of the class")
        save_figure(figure, path)


def draw_class_noise(
    path: Path,
    label: NDArray[np.int64],
    kept: NDArray[np.bool_],
    is_clean: NDArray[np.bool_],
) -> None:
    """Draw the share of each class that was dropped over the share that is noise.

    Args:
        path: the PNG to write.
        label: (N,) from 0 up.
        kept: (N,) what the cleaner keeps.
        is_clean: (N,) the truth.
    """
    size = np.bincount(label)
    present = size > 0
    dropped = np.bincount(label, ~kept, len(size))[present] / size[present]
    noise = np.bincount(label, ~is_clean, len(size))[present] / size[present]
    # Classes of one size have few shares; a circle grows with the classes on its place.
    (x, y), count = np.unique(np.stack([noise, dropped]), axis=1, return_counts=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.6), layout="constrained")
        axes = figure.subplots()
        end = max(float(x.max()), float(y.max()), 0.1) * 1.05
        axes.plot([0, end], [0, end], color="#d9d8d4", linewidth=1.2, zorder=1)
        axes.scatter(x, y, s=14 * count, color=CLEAN_COLOUR, alpha=0.45, linewidth=0, zorder=2)
        axes.set_xlim(-0.03 * end, end)
        axes.set_ylim(-0.03 * end, end)
        axes.set_aspect("equal")
        axes.set_xlabel("noise in the class")
        axes.set_ylabel("dropped from the class")
        error = float(np.abs(dropped - noise).mean())
        axes.set_title(f"{len(noise):,} classes, {100 * error:.1f} points apart on average")
        save_figure(figure, path)
