"""Five landmarks of each image from a CSV, held to be those of a face."""

import contextlib
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.files.csv_file import csv_rows
from facetrain.data.files.written_number import read_float
from facetrain.data.images.align import ARCFACE_POINTS
from facetrain.data.images.image_header import read_header

Points = NDArray[np.float64]

COORDINATES = tuple(f"{axis}{number}" for number in range(1, 6) for axis in "xy")
FURTHER = ("score", "face_size")
"""Columns that may follow: the detector's confidence, and the face's size in pixels."""
LAYOUT = "path,x1,y1,...,x5,y5"

# RMS distance to the template after the best similarity, in its pixels. Right files of photographs
# for the press: 3.2 in the median, 7.2 at most; a generic head turned by 75 degrees: 13 to 15;
# points in another order or layout: 16.9 and up in the median; 23.2 is the worst that can be.
_FILE_RESIDUAL, _FACE_RESIDUAL, _PLAIN_RESIDUAL = 14.0, 16.0, 8.0
_MOST_SCALE = 16.0  # template pixels a pixel: the eyes would be 2 pixels apart
_LOOKED_AT, _LEAST_LOOKED_AT = 128, 8  # images whose size is read, of a source
_MOST_ASIDE = 0.17  # of the width: 0.5 in the median of LFW, 0.25 where points are of half the size
# Of LFW's faces none lies 0.05 of both sides off to one corner; scaled to 0.8 of the size, 97 % do.
_LEAST_OFF, _MOST_IN_CORNER = 0.05, 0.95
MOST_TURN = 60.0
"""Degrees that a file's median face may be turned: a detector finds none that lies on its side."""

_EXCHANGED = [1, 0, 2, 4, 3]  # left and right
_PARTS = {
    "lefteye": 1, "righteye": 2, "nose": 3, "nosetip": 3,
    **{name.format(side): number for side, number in (("left", 4), ("right", 5))
       for name in ("{}mouth", "mouth{}", "{}mouthcorner", "mouthcorner{}", "mouth{}corner")},
}  # fmt: skip
# What other files hold: how it reads, the header that says so, and how to undo it.
_OTHERS: tuple[tuple[str, str, Callable[[Points], Points]], ...] = (
    (
        "the person's left eye seems to come first", "path,x2,y2,x1,y1,x3,y3,x5,y5,x4,y4",
        lambda points: points[:, _EXCHANGED],
    ),
    (
        "y seems to stand before x", "path,y1,x1,y2,x2,y3,x3,y4,x4,y5,x5",
        lambda points: points[:, :, ::-1],
    ),
    (
        "y seems to stand before x, and the person's left eye to come first",
        "path,y2,x2,y1,x1,y3,x3,y5,x5,y4,x4",
        lambda points: points[:, _EXCHANGED, ::-1],
    ),
    (
        "all x seem to stand before all y", "path,x1,x2,x3,x4,x5,y1,y2,y3,y4,y5",
        lambda points: points.reshape(-1, 2, 5).transpose(0, 2, 1),
    ),
)  # fmt: skip


class Landmarks(NamedTuple):
    """What a CSV says."""

    points: dict[str, Points]
    """Image -> (5, 2) pixels: eyes, nose tip, mouth corners, image left first."""
    misfit: dict[str, str]  # image -> why its points are not those of a face; it is not in `points`


class _Fit(NamedTuple):
    """How five points lie on the template after the best similarity; NaN where there is none."""

    residual: NDArray[np.float64]  # (N,) RMS distance in template pixels
    scale: NDArray[np.float64]  # (N,) template pixels a pixel
    turn: NDArray[np.float64]  # (N,) degrees, 0 to 180


def _fit(points: Points) -> _Fit:
    """Umeyama's solution without reflection; in the plane it is one complex factor."""
    template = ARCFACE_POINTS @ (1, 1j)
    template = template - template.mean()
    with np.errstate(all="ignore"):
        source = points @ np.array([1, 1j])  # (N, 5)
        source = source - source.mean(axis=1, keepdims=True)
        variance = (np.abs(source) ** 2).sum(axis=1)
        factor = (source.conj() @ template) / np.where(variance > 1e-6, variance, np.nan)
        distance = np.abs(factor[:, None] * source - template)
        residual = np.sqrt((distance**2).mean(axis=1))
    return _Fit(residual, np.abs(factor), np.abs(np.degrees(np.angle(factor))))


def misfits(points: Points) -> list[str | None]:
    """(N,) why each face's (5, 2) points are not those of a face; None where they fit."""
    fit = _fit(points)
    found: list[str | None] = [None] * len(points)
    for face in np.flatnonzero(~(fit.residual <= _PLAIN_RESIDUAL) | (fit.scale > _MOST_SCALE)):
        residual, scale = fit.residual[face], fit.scale[face]
        if not np.isfinite(residual):
            found[face] = "its landmarks are not five points apart"
        elif scale > _MOST_SCALE:
            found[face] = f"its landmarks span no face: the eyes are {35 / scale:.2g} pixels apart"
        elif (other := _other_layout(points[face : face + 1])) or residual > _FACE_RESIDUAL:
            why = f": {other[0]}" if other else ""
            found[face] = f"its landmarks fit no face ({residual:.1f} of 112 pixels off){why}"
    return found


def _other_layout(points: Points) -> tuple[str, str] | None:
    """What would explain points that do not fit, and the header that would say so."""
    now = np.nanmedian(_fit(points).residual)
    for seen, header, undo in _OTHERS:
        fit = _fit(undo(points))
        residual, turn = np.nanmedian(fit.residual), np.nanmedian(fit.turn)
        if residual <= min(now, _PLAIN_RESIDUAL) and turn < MOST_TURN / 2:
            return seen, header
    return None


def read_landmarks(path: Path) -> Landmarks:
    """Five points by image from a CSV.

    Without a header a line is `path,x1,y1,...,x5,y5`; with one, its names say which column is
    which, in any order: `path`, `x1` to `y5` (or `left_eye_x`, `nose_y`, `right_mouth_x`, ...) and
    perhaps `score` and `face_size`. A further face of an image is a line `path#2`.

    Raises:
        DataError: no such file; a line or a header that is not so; an image with two lines; or
            points that in the median are not those of a face, in pixels of its image.
    """
    layout: _Layout | None = None
    line_of: dict[str, int] = {}
    numbers = array("d")
    for line, row in csv_rows(path, "landmarks"):
        if layout is None:
            layout = _layout(path, row)
            if layout.is_header:
                continue
        try:
            if len(row) != layout.width:
                raise ValueError
            numbers.extend([read_float(row[column] or "nan") for column in layout.coordinates])
        except ValueError:
            raise DataError(
                f"{path}: line {line} must be {LAYOUT}, with {layout.width} cells as the first "
                f"line has; got {','.join(row)!r:.80}"
            ) from None
        name = image_key(row[layout.path])
        if name in line_of:
            raise DataError(
                f"{path}: an image must have one line, but {name!r} has lines {line_of[name]} and "
                f"{line}; keep one face of it, or call the second {name}#2"
            )
        line_of[name] = line
    if not line_of or layout is None:
        raise DataError(f"{path}: must hold lines of {LAYOUT}, but has none")
    points = np.array(numbers).reshape(-1, 5, 2)
    if layout.has_sides:  # whose left: the person's or the image's? The points say.
        exchanged = points[:, _EXCHANGED]
        if np.nanmedian(_fit(exchanged).residual) < np.nanmedian(_fit(points).residual):
            points = exchanged
    _check_file(path, points)
    why = misfits(points)
    named = list(zip(line_of, points, why, strict=True))
    return Landmarks(
        {name: face for name, face, reason in named if reason is None},
        {name: reason for name, _, reason in named if reason is not None},
    )


def check_places(faces: Sequence[tuple[Points, Callable[[], bytes]]]) -> None:
    """Hold the faces to lie where faces do in their images: some left of the middle, some right.

    Points in pixels of an image half as large have the shape of a face, and crop something else.
    Faces that lie aside only to the left or right are told of.

    Args:
        faces: the points of each, and what reads its image.

    Raises:
        DataError: almost all faces lie in one corner of their images.
    """
    found = []
    for points, read in faces[:: max(1, len(faces) // _LOOKED_AT)]:
        with contextlib.suppress(DataError):  # told where the image is used
            if (header := read_header(read())) is not None:
                turned = header.orientation >= 5
                size = (header.width, header.height)[:: -1 if turned else 1]
                found.append(points.mean(axis=0) / size)
    if len(found) < _LEAST_LOOKED_AT:
        return
    places = np.stack(found)
    across, down = np.median(places, axis=0)
    off = places - 0.5
    corner = max((off < -_LEAST_OFF).all(axis=1).mean(), (off > _LEAST_OFF).all(axis=1).mean())
    if corner >= _MOST_IN_CORNER:
        raise DataError(
            f"landmarks must be in pixels of their image, but {100 * corner:.0f} % of the faces "
            f"lie in one corner (at {across:.2f} of the width and {down:.2f} of the height in the "
            "median), as where they are in pixels of images of another size, shares of a hundred, "
            "or of cropped images; give them for the images as they are"
        )
    if abs(across - 0.5) > _MOST_ASIDE:
        logger.warning(
            "landmarks: the faces lie at %.2f of the width of their images in the median, not "
            "in the middle; if they do not, the points are in pixels of images of another size",
            across,
        )


def turn_of(points: Points) -> float:
    """Degrees, 0 to 180, by which one face's (5, 2) points are turned from upright."""
    return float(_fit(points[None]).turn[0])


def image_key(name: str) -> str:
    """How lists and sources that call an image `./a/b.jpg` and `a/b.jpg` agree."""
    return name.strip().removeprefix("./")


class _Layout(NamedTuple):
    path: int
    coordinates: list[int]  # columns of x1, y1, ..., x5, y5
    width: int
    is_header: bool
    has_sides: bool  # named left and right


def _layout(path: Path, first: Sequence[str]) -> _Layout:
    """Which column is which, by the first line."""
    if all(_is_number(cell) for cell in first[1:]):
        if len(first) != 11:
            raise DataError(
                f"{path}: without a header, lines must be {LAYOUT}, 11 cells; got {len(first)}: "
                f"{','.join(first)!r:.80}; leave the others out, or give a header that names "
                f"{LAYOUT} and, if they are that, {' and '.join(FURTHER)}"
            )
        return _Layout(0, list(range(1, 11)), 11, False, False)
    names = [_column(cell) for cell in first]
    has_sides = any(_is_part(cell) for cell in first)
    paths = [place for place, name in enumerate(names) if name == "path"] or [0]
    surplus = [
        cell for place, (cell, name) in enumerate(zip(first, names, strict=True))
        if name not in (*COORDINATES, *FURTHER) and place != paths[0]
    ]  # fmt: skip
    missing = [name for name in COORDINATES if names.count(name) != 1]
    if surplus or missing or names[paths[0]] in COORDINATES:
        wrong = f"{missing[0]} {names.count(missing[0])} times" if missing else repr(surplus[:3])
        raise DataError(
            f"{path}: the header must name {LAYOUT} in any order (or left_eye_x, ..., "
            f"right_mouth_y), each once, and nothing more but {' and '.join(FURTHER)}; got "
            f"{wrong} in {','.join(first)!r:.120}"
        )
    return _Layout(paths[0], [names.index(one) for one in COORDINATES], len(first), True, has_sides)


def _is_number(cell: str) -> bool:
    try:
        read_float(cell or "nan")
    except ValueError:
        return False
    return True


def _is_part(cell: str) -> bool:
    plain = re.sub(r"[^a-z0-9]", "", cell.lower())
    return plain[:-1] in _PARTS and plain[-1] in "xy"


def _column(cell: str) -> str:
    """A header's cell as we call the column."""
    plain = re.sub(r"[^a-z0-9]", "", cell.lower())
    if _is_part(cell):
        return f"{plain[-1]}{_PARTS[plain[:-1]]}"
    if plain in ("path", "image", "file", "filename", "imagepath", "imagename"):
        return "path"
    return {name.replace("_", ""): name for name in (*COORDINATES, *FURTHER)}.get(plain, "")


def _check_file(path: Path, points: Points) -> None:
    """The median face must be one, upright and in pixels."""
    fit = _fit(points)
    if not np.isfinite(fit.residual).any():
        raise DataError(f"{path}: must hold five points apart a face, but no line does")
    residual, scale, turn = (float(np.nanmedian(one)) for one in fit)
    if scale > _MOST_SCALE:
        shares = bool(np.nanmax(np.abs(points)) <= 2)
        advice = "; multiply x by the width and y by the height of each image" if shares else ""
        raise DataError(
            f"{path}: landmarks must be in pixels of the image, but the eyes are {35 / scale:.2g} "
            f"apart in the median, with coordinates from {np.nanmin(points):.3g} to "
            f"{np.nanmax(points):.3g}{advice}"
        )
    if residual <= _PLAIN_RESIDUAL and turn <= MOST_TURN:
        return
    other = _other_layout(points)
    if other or residual > _FILE_RESIDUAL or turn > MOST_TURN:
        advice = f"{other[0]}; if so, begin with the header {other[1]}" if other else (
            "check the order of the points and columns, and name them in a header"
        )  # fmt: skip
        raise DataError(
            f"{path}: landmarks must be eyes, nose tip and mouth corners, the image's left ones "
            f"first, but they fit no upright face: {residual:.1f} of 112 pixels off the template "
            f"and {turn:.0f} degrees turned in the median; {advice}"
        )
