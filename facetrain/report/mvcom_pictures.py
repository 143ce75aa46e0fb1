"""Figures of a fine-tuning with learned margins, after the supplement of MvCoM (CVPR 2022).

Per-sample margins with their faces (its Fig. 6), the long tails of the training set (Figs. 3-5),
margin against level, and the ratio curve of section A (Fig. 1) with the range where its bound
holds.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from facetrain.data.dataset import FaceDataset
from facetrain.data.variation import Variations
from facetrain.report.pictures import COLOURS, STYLE, save_figure
from facetrain.robust.reweighting import log_ratio

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


def draw_margin_faces(
    path: Path,
    dataset: FaceDataset,
    variations: Variations,
    margin: NDArray[np.floating],
    *,
    columns: int = 10,
) -> None:
    """Draw a row of faces a factor, from the smallest margin to the largest, with level and margin.

    Args:
        path: the PNG to write.
        dataset: the training set.
        variations: of its images.
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
                axes.set_title(f"{name}\n{margin[index]:.3f}", fontsize=6.5, pad=2)
            row[0].text(
                -0.12, 0.5, factor, transform=row[0].transAxes, rotation=90, va="center",
                ha="right", fontsize=8, fontweight="bold",
            )  # fmt: skip
        save_figure(figure, path)


def draw_long_tails(path: Path, label: NDArray[np.integer], variations: Variations) -> None:
    """Draw how unevenly images are spread over identities and over the levels of each factor.

    Args:
        path: the PNG to write.
        label: (N,) identities.
        variations: of the same images.
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
            panels[number].bar([names[one] for one in order], images[order], color=colour)
            panels[number].set_yscale("log")
            panels[number].yaxis.set_minor_formatter(NullFormatter())
            panels[number].set_title(factor)
            panels[number].tick_params(axis="x", rotation=60, labelsize=8)
        panels[0].set_ylabel("images")
        save_figure(figure, path)


def draw_margin_by_level(
    path: Path, variations: Variations, residual: NDArray[np.floating]
) -> None:
    """Draw the mean learned residual of each level, the rarest on the left.

    The bars are two standard errors; the line is at no residual.

    Args:
        path: the PNG to write.
        variations: of the training images.
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
            labels = [f"{names[one]}  {100 * count[one] / known.sum():.1f} %" for one in order]
            axes.set_xticks(range(len(order)), labels, rotation=60, ha="right", fontsize=8)
            axes.axhline(0, color="#9b9890", linewidth=0.8)
            axes.set_title(factor)
        panels[0].set_ylabel("mean residual")
        save_figure(figure, path)


def draw_ratio_curve(
    path: Path, *, scale: float = 64.0, margin: float = 0.3, num_classes: int = 80_000
) -> None:
    """Draw F(sigma) of section A, with the range 0 < sigma <= 1 where F <= 1 and the bound holds.

    Beyond it log F is positive but, for the paper's numbers, of the order 1e-15; a second panel
    shows the same curve for a small scale, where one can see it.

    Args:
        path: the PNG to write.
        scale: s of the first panel.
        margin: m in units of cosine.
        num_classes: C.
    """
    sigma = np.linspace(0.0, 2.0, 401)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, own_scale in zip(panels, (scale, 12.0), strict=True):
            value = np.exp(
                log_ratio(sigma, scale=own_scale, margin=margin, num_classes=num_classes)
            )
            axes.axvspan(0, 1, color=COLOURS[2], alpha=0.12, label="bound holds")
            axes.plot(sigma, value, color=COLOURS[0])
            axes.axhline(1, color="#9b9890", linewidth=0.8)
            axes.set_title(f"s = {own_scale:g}, m = {margin:g}, {num_classes:,} classes")
            axes.set_xlabel("sigma")
            axes.set_ylim(0, min(4.0, 1.1 * float(value.max())))
        panels[0].set_ylabel("F(sigma)")
        panels[0].legend(loc="lower right")
        save_figure(figure, path)
