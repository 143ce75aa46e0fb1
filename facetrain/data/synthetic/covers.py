"""What is worn on the head and moves its surface: a face mask or a cap."""

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.synthetic.head import (
    TEXTURE_COLUMNS,
    TEXTURE_ROWS,
    THETA,
    Doubles,
    Floats,
    Head,
    Image,
    normals,
    shell_around,
    smoothstep,
)
from facetrain.data.synthetic.identity import Identity

_DEGREES = np.degrees(np.abs(THETA))
_MASK_COLOURS = ((232, 236, 238), (150, 190, 214), (44, 46, 52), (222, 176, 184))
CAP_LINE = -0.40


def mask_weight(who: Identity, y: Floats) -> Floats:
    """Where a face mask covers the grid, (ROWS, COLUMNS) in [0, 1]."""
    top = np.interp(_DEGREES, [0, 15, 35, 70], [0.42, 0.50, 0.72, 0.86]) * who.nose_y
    inside = smoothstep((y - top) / 0.05) * smoothstep((who.chin_y + 0.10 - y) / 0.06)
    return np.asarray(inside * smoothstep((72 - _DEGREES) / 6), np.float32)


def cap_weight(y: Floats) -> Floats:
    """Where a cap covers the grid, (ROWS, COLUMNS) in [0, 1]."""
    line = np.interp(_DEGREES, [0, 90, 180], [CAP_LINE, CAP_LINE + 0.04, CAP_LINE + 0.16])
    return np.asarray(smoothstep((line - y) / 0.05), np.float32)


def _band(weight: Floats) -> slice:
    """The rows where a weight (rows, columns) is not zero; the rest of the head is left alone."""
    rows = np.flatnonzero(weight.max(axis=1) > 0)
    return slice(int(rows[0]), int(rows[-1]) + 1)


def _moved(head: Head, target: Doubles | Floats, weight: Floats) -> Head:
    """The head with its surface moved towards `target` by `weight`."""
    band = _band(weight)
    position, normal = head.position.copy(), head.normal.copy()
    position[band] += weight[band, :, None] * (target[band] - position[band])
    # One row more on each side, whose own central differences are not kept.
    wide = slice(max(band.start - 2, 0), band.stop + 2)
    inner = slice(1 if wide.start else 0, -1 if wide.stop < len(position) else None)
    normal[wide][inner] = normals(position[wide])[inner]
    reach = np.einsum("rck,rck->rc", normal, position)
    return dataclasses.replace(head, position=position, normal=normal, reach=reach)


def _tinted(texture: Image, weight: Floats, colour: NDArray[np.float32]) -> Image:
    """The colour map blended with `colour`, (3,) or (TEXTURE_ROWS, 1, 3), by `weight`."""
    cover = cv2.resize(weight, (TEXTURE_COLUMNS, TEXTURE_ROWS))
    band = _band(cover)
    tinted = texture.copy()
    cloth = np.broadcast_to(colour, (TEXTURE_ROWS, 1, 3))[band]
    part = tinted[band].astype(np.float32)
    part += cover[band, :, None] * (cloth - part)
    tinted[band] = part
    return tinted


def wear_mask(
    who: Identity, head: Head, texture: Image, rng: np.random.Generator
) -> tuple[Head, Image]:
    """The head and colour map under a face mask: a smooth shell from the nose to the chin."""
    weight = mask_weight(who, head.position[..., 1])
    shell: Floats = np.asarray(cv2.blur(cv2.blur(head.position, (17, 17)), (17, 17)))
    shell[..., 2] += 0.07
    colour = np.array(_MASK_COLOURS[rng.integers(len(_MASK_COLOURS))], np.float32)
    rows = np.arange(TEXTURE_ROWS, dtype=np.float32)
    pleats = 1 - 0.14 * (np.sin(rows * 0.55) > 0.8)
    cloth = np.asarray(pleats[:, None, None] * colour, np.float32)
    strap = smoothstep((100 - _DEGREES) / 4) * smoothstep((_DEGREES - 64) / 4)
    y = head.position[..., 1]
    bands = np.exp(-(((y - 0.36) / 0.016) ** 2)) + np.exp(-(((y - 0.60) / 0.016) ** 2))
    painted = np.maximum(weight, np.asarray(0.9 * strap * bands, np.float32))
    return _moved(head, shell, weight), _tinted(texture, painted, cloth)


def wear_cap(
    who: Identity, head: Head, texture: Image, colour: NDArray[np.float64]
) -> tuple[Head, Image]:
    """The head and colour map under a cap, with the brim's shade on the forehead."""
    y = head.position[..., 1]
    weight = cap_weight(y)
    shade = 0.38 * smoothstep((-0.08 - y) / 0.28) * (1 - weight) * (_DEGREES < 62)
    texture = _tinted(texture, np.asarray(shade, np.float32), np.zeros(3, np.float32))
    cloth = colour.astype(np.float32)
    shell = shell_around(who, 0.075, hanging=False)
    return _moved(head, shell, weight), _tinted(texture, weight, cloth)
