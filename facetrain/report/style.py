"""What all figures of the report share. They are drawn off screen, with no global state."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from facetrain.core.artifact import atomic_path

COLOURS = ("#0b6e99", "#d9730d", "#2f8a57", "#9065b0", "#c14c8a", "#8a6d3b")
_INK, _FAINT = "#37352f", "#d9d8d4"
STYLE: Any = {  # Any: matplotlib from 3.11 on types the keys of rc_context one by one
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eeedea",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


SectionName = Literal["data", "training", "cleaning", "verification"]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG of a run, what it shows, and where it stands in the report."""

    path: Path
    caption: str
    section: SectionName
    width: Literal["full", "wide", "half"] = "full"  # of the page; two halves side by side
    photo: bool = False  # faces: the report embeds them as JPEG, and dark mode leaves them


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary, mpl.rc_context(STYLE):  # ticks are made only now
        figure.savefig(temporary, format="png", dpi=130, facecolor="white")


class Gallery:
    """The pictures of a run, in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: list[Picture] = []

    def add(
        self, name: str, figure: Figure | None, caption: str, section: SectionName, **kind: Any
    ) -> None:
        """Save a figure, if there is one, as `name`.png; `kind` is its `width` and `photo`."""
        if figure is not None:
            path = self.folder / f"{name}.png"
            save_figure(figure, path)
            self.pictures.append(Picture(path, caption, section, **kind))


def power_of_ten(value: float, _position: object = None) -> str:
    """A tick as FARs are spelled everywhere: 1e-4, ..., 1e-1, 1."""
    exponent = round(np.log10(value))
    return f"1e{exponent}" if exponent else "1"


def literal(name: str) -> str:
    """A name as a figure shows it: matplotlib would read what stands between two $ as a formula."""
    return name.replace("$", r"\$")
