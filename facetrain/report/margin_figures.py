"""Figures of a fine-tuning with learned margins, after the supplement of MvCoM (CVPR 2022).

Per-sample margins with their faces (its Fig. 6), the long tails of the training set (Figs. 3-5),
margin against level.
"""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from facetrain.data.dataset import FaceDataset
from facetrain.data.variation import Variations
from facetrain.report.style import COLOURS, STYLE, literal

_FACE_SIZE = 96  # pixels


def sorted_examples(
    margin: NDArray[np.floating], level: NDArray[np.integer], count: int
) -> NDArray[np.int64]:
    """Images of every level, evenly over the ranks of `margin` within it; by rising margin.

    Args:
        margin: (N,), NaN where an image was never trained on.
        level: (N,) of one factor, -1 unknown.
        count: how many in all, shared evenly by the levels; fewer where there are not so many.
    """
    present = np.unique(level[(level >= 0) & np.isfinite(margin)])
    shares = np.array_split(np.arange(count), max(len(present), 1))
    picked: list[int] = []
    for one, share in zip(present, shares, strict=False):
        own = np.flatnonzero((level == one) & np.isfinite(margin))
        order = own[np.argsort(margin[own], kind="stable")]
        # The middles of as many equal parts of the order.
        number = min(len(share), len(order))
        places = (np.arange(number) + 0.5) * len(order) / max(number, 1)
        picked += order[places.astype(int)].tolist()
    chosen = np.array(picked, np.int64)
    return chosen[np.argsort(margin[chosen], kind="stable")]


def margin_faces_figure(
    dataset: FaceDataset, variations: Variations, margin: NDArray[np.floating], *, columns: int = 10
) -> Figure:
    """A row of faces a factor, from the smallest margin to the largest, with level and margin.

    Args:
        margin: (N,) of its images, NaN where there is none.
    """
    factors = variations.factors
    with mpl.rc_context({"font.size": 7}):
        figure = Figure(figsize=(columns * 0.95, len(factors) * 1.35), layout="constrained")
        grid = figure.subplots(len(factors), columns, squeeze=False)
        for row, factor in zip(grid, factors, strict=True):
            for axes in row:
                axes.set_axis_off()
            level = variations.level[factor]
            for axes, index in zip(row, sorted_examples(margin, level, columns), strict=False):
                axes.imshow(dataset.decode(int(index), _FACE_SIZE))
                name = variations.names[factor][int(level[index])]
                axes.set_title(f"{literal(name)}\n{margin[index]:.3f}", fontsize=6.5, pad=2)
            row[0].text(
                -0.12, 0.5, factor, transform=row[0].transAxes, rotation=90, va="center",
                ha="right", fontsize=8, fontweight="bold",
            )  # fmt: skip
    return figure


def long_tails_figure(label: NDArray[np.integer], variations: Variations) -> Figure:
    """How unevenly images are spread over identities and over the levels of each factor.

    Args:
        label: (N,) identities.
    """
    count = np.sort(np.bincount(label))[::-1]
    factors = variations.factors
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * (1 + len(factors)), 2.8), layout="constrained")
        panels = figure.subplots(1, 1 + len(factors), squeeze=False)[0]
        panels[0].fill_between(np.arange(len(count)), count, color=COLOURS[0], alpha=0.8)
        panels[0].set_title("images of a class")
        panels[0].set_xlabel("class, largest first")
        for number, factor in enumerate(factors, 1):
            level = variations.level[factor]
            names = variations.names[factor]
            images = np.bincount(level[level >= 0], minlength=len(names))
            order = np.argsort(-images, kind="stable")
            colour = COLOURS[number % len(COLOURS)]
            panels[number].bar([literal(names[one]) for one in order], images[order], color=colour)
            panels[number].set_yscale("log")
            panels[number].yaxis.set_minor_formatter(NullFormatter())
            panels[number].set_title(factor)
            panels[number].tick_params(axis="x", rotation=60, labelsize=8)
        panels[0].set_ylabel("images")
    return figure


def margin_by_level_figure(variations: Variations, residual: NDArray[np.floating]) -> Figure:
    """The mean learned residual of each level, the rarest on the left.

    The bars are two standard errors; the line is at no residual.

    Args:
        residual: (N,) learned part of each image's margin, NaN where there is none.
    """
    factors = variations.factors
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(factors), 3.2), layout="constrained")
        panels = figure.subplots(1, len(factors), squeeze=False, sharey=True)[0]
        for number, (axes, factor) in enumerate(zip(panels, factors, strict=True)):
            level = variations.level[factor]
            known = (level >= 0) & np.isfinite(residual)
            names = variations.names[factor]
            count = np.bincount(level[known], minlength=len(names))
            order = [one for one in np.argsort(count, kind="stable").tolist() if count[one] > 1]
            values = [residual[known & (level == one)] for one in order]
            axes.errorbar(
                range(len(order)),
                [one.mean() for one in values],
                [2 * one.std(ddof=1) / len(one) ** 0.5 for one in values],
                fmt="o",
                color=COLOURS[number % len(COLOURS)],
                markersize=5,
            )
            labels = [
                f"{literal(names[one])}  {100 * count[one] / known.sum():.1f} %" for one in order
            ]
            axes.set_xticks(range(len(order)), labels, rotation=60, ha="right", fontsize=8)
            axes.axhline(0, color="#9b9890", linewidth=0.8)
            axes.set_title(factor)
        panels[0].set_ylabel("mean residual")
    return figure
