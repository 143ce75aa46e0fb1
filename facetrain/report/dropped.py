"""The sheet of dropped faces: for the classes that lost most, what stayed and what went."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from facetrain.report.cleaning import Cleaning
from facetrain.report.pictures import save_figure
from facetrain.report.sheets import Image

RIGHT_COLOUR, WRONG_COLOUR = "#2f8a57", "#c4372b"
_CELL, _FACE = 0.8, 0.76  # inches: a face with the space beside it, and without
_CAPTION, _HEAD, _MARGIN = 0.2, 0.22, 0.05  # inches above a face, above the sheet, around it
_GAP, _BETWEEN = 0.35, 0.12  # cells between what stayed and what went, and between dropped faces


@dataclasses.dataclass(frozen=True)
class DroppedRow:
    """One class of the sheet; images by number."""

    label: int
    size: int
    num_dropped: int
    kept: list[int]
    dropped: list[int]


def choose_rows(
    cleaning: Cleaning, label: NDArray[np.int64], num_rows: int, num_faces: int
) -> list[DroppedRow]:
    """The classes with the most drops, the most first, and which of their images to show.

    Of the kept the surest, since they show who the class is; of the dropped a spread from the
    surest to the most doubtful, since an error would be among the latter.

    Args:
        cleaning: its decisions.
        label: (N,) from 0 up.
        num_rows: classes, at most.
        num_faces: images of each kind, at most.
    """
    num_dropped = np.bincount(label, ~cleaning.kept)
    order = np.argsort(-num_dropped, kind="stable")[:num_rows]
    rows = []
    for one in order[num_dropped[order] > 0].tolist():
        images = np.flatnonzero(label == one)
        images = images[np.argsort(cleaning.clean_probability[images], kind="stable")]
        kept, dropped = images[cleaning.kept[images]], images[~cleaning.kept[images]]
        spread = np.linspace(0, len(dropped) - 1, min(num_faces, len(dropped))).round()
        rows.append(
            DroppedRow(
                one,
                len(images),
                len(dropped),
                kept[::-1][:num_faces].tolist(),
                dropped[spread.astype(np.int64)].tolist(),
            )
        )
    return rows


def draw_dropped_faces(
    path: Path,
    cleaning: Cleaning,
    label: NDArray[np.int64],
    class_ids: NDArray[np.int64],
    decode: Callable[[int], Image],
    is_clean: NDArray[np.bool_] | None = None,
    *,
    num_rows: int = 8,
    num_faces: int = 4,
) -> bool:
    """Draw the classes that lost most: kept faces on the left, dropped ones on the right.

    Beside a dropped face stands the surest face of the identity suggested for it, if there is one.
    Where the truth is known, a dropped face has a green frame when it is noise and a red one when
    it was dropped wrongly.

    Args:
        path: the PNG to write.
        cleaning: what was decided.
        label: (N,) from 0 up.
        class_ids: (num_classes,) what the data set calls its classes.
        decode: number of an image -> its pixels (H, W, 3).
        is_clean: (N,) the truth, where it is known.
        num_rows: classes, at most.
        num_faces: kept and dropped faces a class, at most.

    Returns:
        Whether anything was drawn: a dropped image at least.
    """
    rows = choose_rows(cleaning, label, num_rows, num_faces)
    if not rows:
        return False
    width = _CELL * (num_faces + _GAP + num_faces * (2 + _BETWEEN)) + _MARGIN
    height = _HEAD + len(rows) * (_CELL + _CAPTION) + _MARGIN
    figure = Figure(figsize=(width, height))

    def show(image: int, row: int, x: float, caption: str = "", loc: Any = "center") -> Axes:
        """Place an image `x` cells from the left; a layout engine would take seconds."""
        bottom = height - _HEAD - (row + 1) * (_CELL + _CAPTION)
        left = _MARGIN + x * _CELL
        axes = figure.add_axes((left / width, bottom / height, _FACE / width, _FACE / height))
        axes.set_axis_off()
        axes.imshow(decode(image))
        axes.set_title(caption, fontsize=7, pad=2.5, loc=loc)
        return axes

    right = num_faces + _GAP
    for x, title in ((0, "kept, the surest first"), (right, "dropped, each with who it may be")):
        y = 1 - 0.16 / height
        figure.text(
            (_MARGIN + x * _CELL) / width, y, title, fontsize=9, fontweight="bold", va="center"
        )
    for number, row in enumerate(rows):
        title = f"class {class_ids[row.label]}: {row.num_dropped} of {row.size} dropped"
        for place, image in enumerate(row.kept):
            show(image, number, place, "" if place else title, "left")
        for place, image in enumerate(row.dropped):
            x = right + place * (2 + _BETWEEN)
            face = show(image, number, x, f"p {cleaning.clean_probability[image]:.2f}")
            if is_clean is not None:
                frame(face, WRONG_COLOUR if is_clean[image] else RIGHT_COLOUR)
            suggested = int(cleaning.suggested_label[image])
            example = _surest(cleaning, label, suggested)
            if example is not None:
                show(example, number, x + 1, f"→ {class_ids[suggested]}")
    save_figure(figure, path)
    return True


def _surest(cleaning: Cleaning, label: NDArray[np.int64], wanted: int) -> int | None:
    """The kept image of a class whose label is surest; None for no class, or none of it kept."""
    images = np.flatnonzero((label == wanted) & cleaning.kept)
    return int(images[cleaning.clean_probability[images].argmax()]) if len(images) else None


def frame(axes: Axes, colour: str) -> None:
    """A frame around an image; its axes are off, so it is drawn."""
    frame: Any = {"transform": axes.transAxes, "fill": False, "clip_on": False}
    axes.add_patch(Rectangle((0, 0), 1, 1, edgecolor=colour, linewidth=2.4, **frame))
