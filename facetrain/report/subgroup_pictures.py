"""Pictures of the differences between subgroups."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facetrain.report.pictures import COLOURS, STYLE, save_figure

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


def draw_subgroups(path: Path, title: str, attribute: Mapping[str, Any]) -> bool:
    """Draw accuracy, TAR and own FAR of each level and of each two levels, with 95 % intervals.

    All are at thresholds that all pairs together chose. Where the intervals of two rows do not
    meet, the subgroups differ by more than chance, as far as pairs are independent.

    Args:
        path: the PNG to write.
        title: names the set and the attribute.
        attribute: `thresholds`, `levels` and `across` of `evaluate.numbers.subgroup_numbers`.

    Returns:
        Whether anything was drawn: two rows at least.
    """
    rows = {**attribute["levels"], **attribute["across"]}
    if len(rows) < 2:
        return False
    far = _smallest_far(rows)
    panels: list[tuple[str, str, str | None]] = [("accuracy", "accuracy", None)]
    if far is not None:
        panels += [
            (f"TAR at FAR {far} over all", "tar_at_far", far),
            ("FAR at that threshold", "own_far", far),
        ]
    with mpl.rc_context(STYLE):
        height = 1.2 + 0.28 * len(rows)
        figure = Figure(figsize=(3.4 * len(panels) + 1.4, height), layout="constrained")
        all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axes, (name, key, at) in zip(all_axes, panels, strict=True):
            _draw_rates(axes, rows, key, at)
            axes.set_title(name)
            axes.axhline(len(attribute["levels"]) - 0.5, color="#b9b7b0", linewidth=0.8)
        if far is not None:
            all_axes[2].axvline(float(far), color=COLOURS[1], linewidth=1)
        labels = [f"{name}  ({row['num_pairs']:,})" for name, row in rows.items()]
        all_axes[0].set_yticks(range(len(rows)), labels)
        all_axes[0].invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        save_figure(figure, path)
    return True


def draw_all_subgroups(folder: Path, numbers: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Draw every attribute of every set into `folder`; returns the files.

    Args:
        folder: receives `subgroups_<set>_<attribute>.png`.
        numbers: set name -> its numbers, as `verification.json` has them.
    """
    paths = []
    for name, values in numbers.items():
        for attribute, subgroups in values.get("subgroups", {}).items():
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in attribute)
            path = folder / f"subgroups_{name}_{safe}.png"
            if draw_subgroups(path, f"{name} by {attribute} (pairs)", subgroups):
                paths.append(path)
    return paths
