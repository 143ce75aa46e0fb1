"""What all figures share, and training curves. Drawn off screen, with no global state."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
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


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG of a run, what it shows, and where it stands in the report."""

    path: Path
    caption: str
    section: Literal["data", "training", "cleaning", "verification"]
    width: Literal["full", "wide", "half"] = "full"  # of the page; two halves side by side
    photo: bool = False  # faces: the report embeds them as JPEG, and dark mode leaves them


def save_figure(figure: Figure, path: Path, dots_per_inch: int = 130) -> None:
    """Write a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dots_per_inch, facecolor="white")


def power_of_ten(value: float, _position: object = None) -> str:
    """A tick as FARs are spelled everywhere: 1e-4, ..., 1e-1, 1."""
    exponent = round(np.log10(value))
    return f"1e{exponent}" if exponent else "1"


def draw_training_curves(path: Path, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Draw loss, learning rate and verification accuracy over steps.

    Args:
        path: the PNG to write.
        entries: rows of `log.jsonl`: `step` with `loss` and `learning_rate`, or with `evaluation`
            (set name -> numbers).

    Returns:
        Whether anything was drawn: two logged losses at least.
    """
    training = [entry for entry in entries if "loss" in entry]
    if len(training) < 2:
        return False
    accuracy: dict[str, list[tuple[int, float]]] = {}
    for entry in entries:
        for name, numbers in entry.get("evaluation", {}).items():
            if numbers["accuracy"] is not None:
                accuracy.setdefault(name, []).append((entry["step"], numbers["accuracy"]))
    steps = [entry["step"] for entry in training]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 5.8 if accuracy else 4.1), layout="constrained")
        heights = [2.2, 1, 1.6] if accuracy else [2.2, 1]
        panels: list[Axes] = list(
            figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        )
        panels[0].plot(steps, [entry["loss"] for entry in training], color=COLOURS[0])
        panels[0].set_title("loss")
        panels[1].plot(steps, [entry["learning_rate"] for entry in training], color=COLOURS[1])
        panels[1].set_title("learning rate")
        if accuracy:
            for index, (name, points) in enumerate(accuracy.items()):
                x, y = zip(*points, strict=True)
                colour = COLOURS[(index + 2) % len(COLOURS)]
                panels[2].plot(x, y, color=colour, marker="o", markersize=4, label=name)
                panels[2].annotate(
                    f"{y[-1]:.4f}", (x[-1], y[-1]), (4, 4), textcoords="offset points", color=colour
                )
            panels[2].set_title("verification accuracy")
            panels[2].margins(x=0.06, y=0.2)
            panels[2].legend(loc="lower right")
        panels[-1].set_xlabel("step")
        save_figure(figure, path)
    return True
