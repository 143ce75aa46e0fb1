"""Attributes of images from a CSV: categories by image name or by row."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.files.csv_file import csv_rows

UNKNOWN = -1


class Attribute(NamedTuple):
    """One column of the CSV."""

    levels: list[str]  # the categories by name, sorted; by value where they are numbers
    level: NDArray[np.int64]  # (N,) of each image; -1 where it is unknown


def read_attributes(
    path: Path, images: Sequence[str] | int, *, only_these: bool = False
) -> dict[str, Attribute]:
    """Column name -> categories of N images.

    The header names the columns. The first column holds image names or, where none of its cells is
    one, rows counted from 0. An empty cell or -1 is unknown, and so is an image without
    a line; lines about other images do not matter, unless `only_these` are to be in it.

    Args:
        images: the N images' names; or N, where images have none.
        only_these: every line must be about one of the images, under the header `image,...`.

    Raises:
        DataError: no such file, no columns, one twice, a line of another length, two lines about
            an image that differ, or no line about one of the images (with `only_these`: one that
            is about none).
    """
    (_, first), *numbered = list(csv_rows(path, "attributes")) or [(0, [])]
    header, lines = [name.strip() for name in first], [row for _, row in numbered]
    if len(header) < 2 or len(set(header)) < len(header) or not lines:
        raise DataError(
            f"{path}: must have a header image,attribute,... with distinct attributes, and lines "
            f"below it; got {','.join(first)!r:.80} and {len(lines)} lines"
        )
    for number, row in numbered:
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {number} must have {len(header)} cells as the header, got "
                f"{','.join(row)!r:.80}"
            )
    if only_these and header[0] not in ("image", "path"):
        raise DataError(f"{path}: must begin with the line image,<factor>,...; got {header}")
    keys = [row[0].strip().removeprefix("./") for row in lines]
    places = image_places(path, keys, images, only_these=only_these)
    cells: dict[str, list[str]] = {}
    for key, row in zip(keys, lines, strict=True):
        if key in places and cells.setdefault(key, row[1:]) != row[1:]:
            raise DataError(f"{path}: must have one line an image, but {key!r} has two that differ")
    num_images = images if isinstance(images, int) else len(images)
    return {
        name: _column(keys, [row[column].strip() for row in lines], places, num_images)
        for column, name in enumerate(header[1:], 1)
    }


def image_places(
    path: Path, keys: Sequence[str], images: Sequence[str] | int, *, only_these: bool
) -> dict[str, list[int]]:
    """The places of N images by what the lines of a CSV call them: their names, or rows from 0.

    Raises:
        DataError: no line (with `only_these`: not every line) is about one of the images.
    """
    names = [] if isinstance(images, int) else images
    num_images = images if isinstance(images, int) else len(images)
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    if not any(key in places for key in keys):
        places = {str(place): [place] for place in range(num_images)}
    if not any(key in places for key in keys):
        example = names[0] if names else "0"
        raise DataError(
            f"{path}: the first column must name images of the set, as {example!r}, or their rows "
            f"from 0 to {num_images - 1}, but none of its {len(keys)} lines does ({keys[0]!r})"
        )
    if only_these and (others := [key for key in keys if key not in places]):
        raise DataError(
            f"{path}: every image must be one of the {num_images} of the data set, but "
            f"{others[0]!r} is none; give rows from 0 up, or names with --list"
        )
    return places


def _column(
    keys: Sequence[str], cells: Sequence[str], places: dict[str, list[int]], num_images: int
) -> Attribute:
    levels = sorted(set(cells) - {"", str(UNKNOWN)}, key=_number_or_name)
    number = {name: place for place, name in enumerate(levels)}
    level = np.full(num_images, UNKNOWN, np.int64)
    for key, cell in zip(keys, cells, strict=True):
        level[places.get(key, [])] = number.get(cell, UNKNOWN)
    return Attribute(levels, level)


def _number_or_name(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
