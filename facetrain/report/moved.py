"""The sheet of moved images: who each was said to be, and who it is taken for now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from facetrain.report.cleaning import Cleaning
from facetrain.report.dropped import RIGHT_COLOUR, WRONG_COLOUR, frame
from facetrain.report.pictures import save_figure
from facetrain.report.sheets import Image

_CELL, _FACE = 0.8, 0.76  # inches: a face with the space beside it, and without
_CAPTION, _HEAD, _MARGIN = 0.2, 0.24, 0.05  # inches above a face, above the sheet, around it
_GAP = 0.35  # cells between the three parts of a row


def choose_moved(cleaning: Cleaning, label: NDArray[np.int64], num_rows: int) -> list[int]:
    """Moved images to show, at most one of a class, from the surest to the most doubtful.

    Args:
        cleaning: its decisions; every suggestion counts as a move.
        label: (N,) from 0 up.
        num_rows: images, at most.
    """
    moved = np.flatnonzero(~cleaning.kept & (cleaning.suggested_label >= 0))
    moved = moved[np.argsort(cleaning.clean_probability[moved], kind="stable")]
    first_of_class = np.sort(np.unique(label[moved], return_index=True)[1])
    moved = moved[first_of_class]
    spread = np.linspace(0, len(moved) - 1, min(num_rows, len(moved))).round()
    return [int(image) for image in moved[spread.astype(np.int64)]]


def draw_moved_faces(
    path: Path,
    cleaning: Cleaning,
    label: NDArray[np.int64],
    class_ids: NDArray[np.int64],
    decode: Callable[[int], Image],
    is_right: NDArray[np.bool_] | None = None,
    *,
    num_rows: int = 8,
    num_faces: int = 4,
) -> bool:
    """Draw moved images: the image, faces of the class it came from, faces of where it went.

    Where the truth is known, an image has a green frame when its new identity is the right one
    and a red one when it is not.

    Args:
        path: the PNG to write.
        cleaning: what was decided.
        label: (N,) from 0 up, as given.
        class_ids: (num_classes,) what the data set calls its classes.
        decode: number of an image -> its pixels (H, W, 3).
        is_right: (N,) whether the suggested identity is the true one, where that is known.
        num_rows: moved images, at most.
        num_faces: faces of each of the two classes, at most.

    Returns:
        Whether anything was drawn: a moved image at least.
    """
    rows = choose_moved(cleaning, label, num_rows)
    if not rows:
        return False
    starts = (0.0, 1 + _GAP, 1 + 2 * _GAP + num_faces)  # cells from the left
    width = _CELL * (1 + 2 * _GAP + 2 * num_faces) + _MARGIN
    height = _HEAD + len(rows) * (_CELL + _CAPTION) + _MARGIN
    figure = Figure(figsize=(width, height))

    def show(image: int, row: int, x: float, caption: str) -> Any:
        bottom = height - _HEAD - (row + 1) * (_CELL + _CAPTION)
        left = _MARGIN + x * _CELL
        axes = figure.add_axes((left / width, bottom / height, _FACE / width, _FACE / height))
        axes.set_axis_off()
        axes.imshow(decode(image))
        axes.set_title(caption, fontsize=7, pad=2.5, loc="left")
        return axes

    for x, title in zip(starts, ("moved", "from", "to"), strict=True):
        place = (_MARGIN + x * _CELL) / width
        figure.text(place, 1 - 0.12 / height, title, fontsize=9, fontweight="bold", va="center")
    for number, image in enumerate(rows):
        face = show(image, number, 0, f"p {cleaning.clean_probability[image]:.2f}")
        if is_right is not None:
            frame(face, RIGHT_COLOUR if is_right[image] else WRONG_COLOUR)
        classes = int(label[image]), int(cleaning.suggested_label[image])
        for x, one in zip(starts[1:], classes, strict=True):
            for place, example in enumerate(_surest(cleaning, label, one, num_faces)):
                show(example, number, x + place, "" if place else f"class {class_ids[one]}")
    save_figure(figure, path)
    return True


def _surest(cleaning: Cleaning, label: NDArray[np.int64], wanted: int, count: int) -> list[int]:
    """The kept images of a class whose labels are surest."""
    images = np.flatnonzero((label == wanted) & cleaning.kept)
    order = np.argsort(-cleaning.clean_probability[images], kind="stable")
    return [int(image) for image in images[order[:count]]]
