"""How many images each identity has, before and after cleaning: numbers and a picture."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from facetrain.report.style import COLOURS, STYLE

Ints = NDArray[np.int64]
_MOST_UNIT_BINS, _NUM_WIDE_BINS = 48, 32


def class_sizes(label: Ints) -> Ints:
    """Images of each class that has any, the largest class first; labels (N,) are from 0 up."""
    count = np.bincount(label)
    return -np.sort(-count[count > 0]).astype(np.int64)


def size_bins(largest: int) -> Ints:
    """First size of each bin, and the end of the last: single sizes, or wider and wider ones."""
    if largest <= _MOST_UNIT_BINS:
        return np.arange(1, largest + 2)
    wide = np.geomspace(1, largest + 1, _NUM_WIDE_BINS + 1).round().astype(np.int64)
    return np.unique(wide)


def size_rows(views: Mapping[str, Ints]) -> tuple[list[str], list[list[str]]]:
    """Header and one row a view (name -> its `class_sizes`), for a table."""
    header = ["labels", "images", "identities", "with one image", "smallest", "median", "largest"]
    rows = []
    for name, sizes in views.items():
        numbers = [int(sizes.sum()), len(sizes), int((sizes == 1).sum()), int(sizes[-1])]
        middle = f"{np.median(sizes):,g}"
        rows.append([name, *(f"{n:,}" for n in numbers), middle, f"{int(sizes[0]):,}"])
    return header, rows


@mpl.rc_context(STYLE)
def class_sizes_figure(views: Mapping[str, Ints]) -> Figure:
    """How many identities have how many images, and the sizes from the largest down."""
    bins = size_bins(max(int(sizes[0]) for sizes in views.values()))
    spread = bins[-1] > _MOST_UNIT_BINS + 1
    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    identities, tail = figure.subplots(1, 2)
    for index, (name, sizes) in enumerate(views.items()):
        colour: Any = COLOURS[index % len(COLOURS)]
        # Bars between two sizes, so that the bar of size 1 stands over the 1.
        count = np.histogram(sizes, bins - 0.5)[0]
        fill = {"fill": True, "alpha": 0.35} if index == 0 else {"linewidth": 1.8}
        identities.stairs(count, bins - 0.5, color=colour, label=name, **fill)
        place = np.arange(1, len(sizes) + 1)
        tail.step(place, sizes, where="mid", color=colour, label=name)
    identities.set(axisbelow=True, xlabel="images of an identity")
    identities.set_title("identities by number of images")
    tail.set(title="images of each identity", xlabel="identities, the largest first")
    if spread:
        identities.set_xscale("log")
        identities.set_yscale("symlog", linthresh=1)
        tail.set(xscale="log", yscale="log")
    else:
        tail.set_ylim(bottom=0)
    tail.legend(loc="upper right")
    return figure
