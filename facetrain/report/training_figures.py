"""Figures of a training: its curves; weights, labels, confidence on noisy labels; margins.

Those of learned margins are after the supplement of MvCoM (CVPR 2022): margins with their faces
(its Fig. 6), the long tails of the training set (Figs. 3-5), margin against level.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from facetrain.data.dataset import FaceDataset
from facetrain.data.variation.labels import Variations
from facetrain.report.cleaning_figures import CLEAN_COLOUR, NOISE_COLOUR
from facetrain.report.style import COLOURS, STYLE, literal

_NUM_BINS = 40
_FACE_SIZE = 96  # pixels
_MOST_PANELS, _MOST_CLASSES = 6, 30
_WHITE_TO_BLUE = LinearSegmentedColormap.from_list("white_to_blue", ["#ffffff", CLEAN_COLOUR])


@mpl.rc_context(STYLE)
def training_curves_figure(entries: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Loss, learning rate and verification accuracy over steps.

    Args:
        entries: rows of `log.jsonl`: `step` with `loss` and `learning_rate`, or with `evaluation`
            (set name -> numbers).

    Returns:
        None without two logged losses at least.
    """
    training = [entry for entry in entries if "loss" in entry]
    if len(training) < 2:
        return None
    accuracy: dict[str, list[tuple[int, float]]] = {}
    for entry in entries:
        for name, numbers in entry.get("evaluation", {}).items():
            if numbers["accuracy"] is not None:
                accuracy.setdefault(name, []).append((entry["step"], numbers["accuracy"]))
    steps = [entry["step"] for entry in training]
    figure = Figure(figsize=(5.6, 5.8 if accuracy else 4.1), layout="constrained")
    heights = [2.2, 1, 1.6] if accuracy else [2.2, 1]
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    panels[0].plot(steps, [entry["loss"] for entry in training], color=COLOURS[0])
    panels[0].set_title("loss")
    panels[1].plot(steps, [entry["learning_rate"] for entry in training], color=COLOURS[1])
    panels[1].set_title("learning rate")
    if accuracy:
        for index, (name, points) in enumerate(accuracy.items()):
            x, y = zip(*points, strict=True)
            colour = COLOURS[(index + 2) % len(COLOURS)]
            panels[2].plot(x, y, color=colour, marker="o", markersize=4, label=literal(name))
            panels[2].annotate(
                f"{y[-1]:.4f}", (x[-1], y[-1]), (4, 4), textcoords="offset points", color=colour
            )
        panels[2].set_title("verification accuracy")
        panels[2].margins(x=0.06, y=0.2)
        panels[2].legend(loc="lower right")
    panels[-1].set_xlabel("step")
    return figure


@mpl.rc_context(STYLE)
def weight_figure(
    weight: NDArray[Any],
    is_clean: NDArray[np.bool_] | None,
    title: str,
    epochs: NDArray[np.int64] | None = None,
) -> Figure:
    """How a weight is distributed over clean and noisy samples, a panel an epoch.

    NAL's Figs. 11 to 13. Up to six epochs, evenly spread. Bars are shares of their own kind, so
    that rare noise is as tall as common clean samples; their height is the square root of it, for
    what lies between two peaks.

    Args:
        weight: (E, N); NaN for a sample that an epoch did not visit.
        is_clean: (N,) the truth, where it is known.
        title: what the weight is, e.g. "SuperLoss: sigma".
        epochs: (E,) which epochs the rows are; 0 to E - 1 without it.
    """
    numbers = np.arange(len(weight)) if epochs is None else epochs
    weighed = np.flatnonzero(np.isfinite(weight).any(1))
    assert len(weighed), "no epoch has weights"
    places = np.linspace(0, len(weighed) - 1, _MOST_PANELS).round().astype(int)
    rows = weighed[np.unique(places)]
    shown = weight[rows]
    low, high = float(np.nanmin(shown)), float(np.nanquantile(shown, 0.999))
    bins = np.linspace(low, high if high > low else low + 1, _NUM_BINS + 1)
    figure = Figure(figsize=(7.2, 0.6 + 1.05 * len(rows)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0])
    for panel, row in zip(panels, rows, strict=True):
        for name, colour, values in _groups(weight[row], is_clean):
            share = np.histogram(values.clip(bins[0], bins[-1]), bins)[0] / max(len(values), 1)
            panel.stairs(np.sqrt(share), bins, color=colour, fill=True, alpha=0.55, label=name)
        panel.set_yticks([])
        panel.grid(visible=False)
        panel.set_ylabel(f"{numbers[row]}", rotation=0, labelpad=14, va="center")
    panels[0].set_title(f"{title}, by epoch")
    panels[0].legend(loc="upper center", ncols=2)
    panels[-1].set_xlabel("weight")
    return figure


@mpl.rc_context({**STYLE, "axes.grid": False})
def confusion_figure(
    given: NDArray[np.int64], estimated: NDArray[np.int64], true: NDArray[np.int64] | None = None
) -> Figure:
    """How labels relate: given and estimated ones to the truth (NAL's Figs. 1 to 6).

    A row is a class and sums to 1. Without the truth: given labels to estimated ones. Of more than
    30 classes the 30 largest are shown, and what leads out of them is not.

    Args:
        given: (N,) from 0 up.
        estimated: (N,).
        true: (N,).
    """
    if true is None:
        pairs = [("estimated label", "given label", given, estimated)]
    else:
        pairs = [
            ("given label", "true label", true, given),
            ("estimated label", "true label", true, estimated),
        ]
    rows = pairs[0][2]
    classes = np.sort(np.argsort(-np.bincount(rows), kind="stable")[:_MOST_CLASSES])
    figure = Figure(figsize=(0.4 + 4.2 * len(pairs), 4.4), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(pairs), squeeze=False)[0])
    for panel, (across, down, of, found) in zip(panels, pairs, strict=True):
        share = _confusion(of, found, classes)
        panel.imshow(share, cmap=_WHITE_TO_BLUE, vmin=0, vmax=1)
        if len(classes) <= 12:
            for (i, j), value in np.ndenumerate(share):
                if value >= 0.005:
                    ink = "white" if value > 0.5 else "#37352f"
                    text = f"{100 * value:.0f}"
                    panel.text(j, i, text, ha="center", va="center", color=ink, size=8)
        places = np.arange(len(classes))
        panel.set_xticks(places, [str(one) for one in classes], size=7)
        panel.set_yticks(places, [str(one) for one in classes], size=7)
        agree = f"{100 * np.mean(of == found):.1f} % agree"
        panel.set(title=agree, xlabel=across, ylabel=down)
    return figure


@mpl.rc_context(STYLE)
def confidence_figure(lam: float) -> Figure:
    """SuperLoss's confidence over the loss, and its loss surface (Fig. 1 of its supplement).

    Args:
        lam: lambda; drawn strongest, between a quarter and four times as much.
    """
    import torch  # no other figure needs it, and it takes seconds

    from facetrain.robust.superloss import confidence

    excess = lam * torch.linspace(-2, 6, 400, dtype=torch.float64)  # loss - tau
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    curve, surface = figure.subplots(1, 2)
    for value, colour in zip((lam / 4, lam, 4 * lam), COLOURS, strict=False):
        width = 2.4 if value == lam else 1.2
        sigma = confidence(excess, 0.0, value).numpy()
        curve.plot(excess, sigma, color=colour, linewidth=width, label=f"λ = {value:g}")
    curve.axvline(0, color="#d9d8d4", linewidth=1, zorder=0)
    curve.set(title="confidence sigma*", xlabel="loss - tau")
    curve.legend()
    sigma = np.geomspace(0.05, np.e, 200)
    value = sigma[:, None] * excess.numpy() + lam * np.log(sigma[:, None]) ** 2
    surface.contourf(excess, sigma, value, levels=24, cmap="cividis")
    best = confidence(excess, 0.0, lam).numpy()
    surface.plot(excess, best, color="white", label="sigma*")
    surface.set(title=f"loss surface, λ = {lam:g}", xlabel="loss - tau", ylabel="sigma")
    surface.set_yscale("log")
    surface.grid(visible=False)
    surface.legend(loc="lower left", labelcolor="white")
    return figure


@mpl.rc_context(STYLE)
def alpha_beta_figure(
    alpha: NDArray[Any],
    beta: NDArray[Any],
    is_clean: NDArray[np.bool_] | None,
    epochs: NDArray[np.int64] | None = None,
) -> Figure:
    """The mean of L2B's weights over training, apart for clean and noisy samples.

    Args:
        alpha: (E, N) of the given labels; NaN for a sample that an epoch did not visit.
        beta: (E, N) of the pseudo-labels.
        is_clean: (N,) the truth, where it is known.
        epochs: (E,) which epochs the rows are; 0 to E - 1 without it.
    """
    numbers = np.arange(len(alpha)) if epochs is None else epochs
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for symbol, line, values in (("alpha", "-", alpha), ("beta", ":", beta)):
        for name, colour, of in _groups(values.T, is_clean):
            counted = np.isfinite(of).sum(0)
            mean = np.nansum(of, axis=0) / np.maximum(counted, 1)
            seen = counted > 0
            axes.plot(numbers[seen], mean[seen], line, color=colour, label=f"{symbol}, {name}")
    axes.set_title("mean weight of given (alpha) and pseudo-label (beta)")
    axes.set(xlabel="epoch", xlim=(numbers[0] - 0.5, numbers[-1] + 0.5), ylim=(0, None))
    axes.legend()
    return figure


def _groups(
    values: NDArray[Any], is_clean: NDArray[np.bool_] | None
) -> list[tuple[str, str, NDArray[Any]]]:
    """(name, colour, values) of clean and noisy samples, along the first axis; or of all."""
    if is_clean is None:
        groups = [("samples", CLEAN_COLOUR, values)]
    else:
        groups = [("noise", NOISE_COLOUR, values[~is_clean])] if not is_clean.all() else []
        groups.append(("clean", CLEAN_COLOUR, values[is_clean]))
    if values.ndim == 1:
        groups = [(name, colour, of[np.isfinite(of)]) for name, colour, of in groups]
    return [(f"{name} ({len(of):,})", colour, of) for name, colour, of in groups]


def _confusion(
    rows: NDArray[np.int64], found: NDArray[np.int64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(K, K) share of each class's samples that are found in each of the classes."""
    size = int(max(rows.max(), found.max())) + 1
    count = np.bincount(rows * size + found, minlength=size * size).reshape(size, size)
    total = np.maximum(count.sum(1, keepdims=True), 1)
    share: NDArray[np.float64] = (count / total)[np.ix_(classes, classes)]
    return share


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


@mpl.rc_context({"font.size": 7})
def margin_faces_figure(
    dataset: FaceDataset, variations: Variations, margin: NDArray[np.floating], *, columns: int = 10
) -> Figure:
    """A row of faces a factor, from the smallest margin to the largest, with level and margin.

    Args:
        margin: (N,) of its images, NaN where there is none.
    """
    factors = variations.factors
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


@mpl.rc_context(STYLE)
def long_tails_figure(label: NDArray[np.integer], variations: Variations) -> Figure:
    """How unevenly images are spread over identities and over the levels of each factor.

    Args:
        label: (N,) identities.
    """
    count = np.sort(np.bincount(label))[::-1]
    factors = variations.factors
    figure = Figure(figsize=(2.6 * (1 + len(factors)), 2.8), layout="constrained")
    panels = figure.subplots(1, 1 + len(factors), squeeze=False)[0]
    panels[0].fill_between(np.arange(len(count)), count, color=COLOURS[0], alpha=0.8)
    panels[0].set(title="images of a class", xlabel="class, largest first", ylabel="images")
    for number, factor in enumerate(factors, 1):
        level = variations.level[factor]
        names = variations.names[factor]
        images = np.bincount(level[level >= 0], minlength=len(names))
        order = np.argsort(-images, kind="stable")
        colour = COLOURS[number % len(COLOURS)]
        panels[number].bar([literal(names[one]) for one in order], images[order], color=colour)
        panels[number].set(title=factor, yscale="log")
        panels[number].yaxis.set_minor_formatter(NullFormatter())
        panels[number].tick_params(axis="x", rotation=60, labelsize=8)
    return figure


@mpl.rc_context(STYLE)
def margin_by_level_figure(variations: Variations, residual: NDArray[np.floating]) -> Figure:
    """The mean learned residual of each level, the rarest on the left.

    The bars are two standard errors; the line is at no residual.

    Args:
        residual: (N,) learned part of each image's margin, NaN where there is none.
    """
    factors = variations.factors
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
        labels = [f"{literal(names[one])}  {100 * count[one] / known.sum():.1f} %" for one in order]
        axes.set_xticks(range(len(order)), labels, rotation=60, ha="right", fontsize=8)
        axes.axhline(0, color="#9b9890", linewidth=0.8)
        axes.set_title(factor)
    panels[0].set_ylabel("mean residual")
    return figure
