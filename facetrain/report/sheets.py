"""Sheets of faces: a grid with captions, and the pairs a model finds hardest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from facetrain.data.paired_faces import PairedFaces
from facetrain.data.verification_bin import VerificationSet
from facetrain.metrics.verification import Bools, Floats
from facetrain.report.pictures import save_figure

Image = NDArray[np.uint8]

_RIGHT, _WRONG = "#37352f", "#c4372b"


def draw_contact_sheet(
    path: Path,
    images: Sequence[Image],
    captions: Sequence[str] = (),
    *,
    columns: int = 8,
    title: str = "",
) -> None:
    """Draw images in rows, each under its caption.

    Args:
        path: the PNG to write.
        images: (H, W, 3) RGB each.
        captions: one an image, or none at all.
        columns: images a row.
        title: above the sheet.
    """
    assert images
    assert len(captions) in (0, len(images)), "one caption an image"
    rows = -(-len(images) // columns)
    cell = 0.95
    with mpl.rc_context({"font.size": 7}):
        figure = Figure(
            figsize=(columns * cell, rows * (cell + 0.16 * bool(captions)) + 0.3 * bool(title)),
            layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01),
        )
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        grid = figure.subplots(rows, columns, squeeze=False)
        for index, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if index < len(images):
                axes.imshow(images[index])
                if captions:
                    axes.set_title(captions[index], fontsize=7, pad=2)
        save_figure(figure, path)


def hardest_pairs(distance: Floats, same: Bools, count: int) -> tuple[list[int], list[int]]:
    """The `count` same pairs farthest apart, and different pairs nearest, worst first."""
    order = np.argsort(distance, kind="stable")
    genuine, impostor = order[same[order]][::-1], order[~same[order]]
    return genuine[:count].tolist(), impostor[:count].tolist()


def draw_hardest_pairs(
    path: Path,
    pairs: VerificationSet | PairedFaces,
    distance: Floats,
    threshold: float,
    *,
    count: int = 10,
    size: int = 112,
) -> None:
    """Draw the hardest pairs of each kind: same people on the left, different ones on the right.

    Each pair has its cosine, in red when the model judges it wrongly.

    Args:
        path: the PNG to write.
        pairs: the verification set.
        distance: (P,) squared L2 distance of unit embeddings.
        threshold: squared distance below which a pair counts as the same person.
        count: pairs of each kind.
        size: pixels of a face.
    """
    columns = 2
    genuine, impostor = hardest_pairs(distance, np.asarray(pairs.same, np.bool_), count)
    rows = -(-max(len(genuine), len(impostor)) // columns)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(9, rows * 1.23 + 0.4), layout="constrained")
        halves: Any = figure.subfigures(1, 2, wspace=0.03)
        titles = ("same person, farthest apart", "different people, nearest")
        for half, rows_of_kind, title in zip(halves, (genuine, impostor), titles, strict=True):
            is_same = rows_of_kind is genuine
            wrong = [(distance[pair] < threshold) != is_same for pair in rows_of_kind]
            half.suptitle(
                f"{title}: {sum(wrong)} of {len(wrong)} wrong",
                x=0.01,
                ha="left",
                fontsize=9,
                fontweight="bold",
            )
            grid = half.subplots(rows, columns, squeeze=False)
            for axes in grid.flat:
                axes.set_axis_off()
            for axes, pair, is_wrong in zip(grid.flat, rows_of_kind, wrong, strict=False):
                faces = [pairs.decode(2 * pair + side, size) for side in (0, 1)]
                axes.imshow(np.concatenate(faces, axis=1))
                axes.set_title(
                    f"pair {pair}   cosine {1 - distance[pair] / 2:.2f}",
                    fontsize=7, pad=2, color=_WRONG if is_wrong else _RIGHT,
                )  # fmt: skip
        save_figure(figure, path)
