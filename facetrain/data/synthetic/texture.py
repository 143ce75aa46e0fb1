"""What an identity's skin and hair look like: one colour map over the head's grid.

Eyes, brows and mouth change with the expression and are painted per sample (features.py).
"""

import cv2
import numpy as np

from facetrain.data.synthetic.head import (
    COLUMNS,
    TEXTURE_COLUMNS,
    TEXTURE_ROWS,
    THETA,
    Floats,
    Head,
    Image,
    smoothstep,
)
from facetrain.data.synthetic.identity import Identity

_SHAPE = (TEXTURE_ROWS, TEXTURE_COLUMNS)
_TEXEL_THETA = np.interp(
    np.linspace(0, COLUMNS - 1, TEXTURE_COLUMNS), np.arange(COLUMNS), THETA
).astype(np.float32)
# Marks of the skin are drawn on these columns only: a face ends before the ears' backs.
_FRONT = slice(*np.searchsorted(_TEXEL_THETA, [-1.57, 1.57]).tolist())
_FACE_ROWS = slice(60, TEXTURE_ROWS)


def _noise(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Smooth noise (TEXTURE_ROWS, TEXTURE_COLUMNS), unit variance at its knots."""
    knots = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(cv2.resize(knots, _SHAPE[::-1], interpolation=cv2.INTER_LINEAR))


def _spot(x: Floats, y: Floats, at: tuple[float, float], spread: tuple[float, float]) -> Floats:
    across, down = (x - np.float32(at[0])) / spread[0], (y - np.float32(at[1])) / spread[1]
    return np.asarray(np.exp(-across * across - down * down))


def _beard(who: Identity, x: Floats, side: Floats, y: Floats) -> Floats:
    """How densely the beard covers the face, in [0, 1]."""
    area = np.zeros_like(x)
    if who.beard != "goatee":
        line = np.interp(side, [0, 0.25, 0.45, 0.62], [who.mouth_y + 0.1, who.mouth_y, 0.52, 0.05])
        if who.beard != "moustache":
            area = smoothstep((y - line.astype(np.float32)) / 0.10)
    else:
        area = 1.6 * _spot(x, y, (0, who.mouth_y + 0.24), (0.19, 0.15))
    lip = who.mouth_y - who.lip_upper
    area = np.maximum(area, 1.6 * _spot(side, y, (0.09, lip - 0.045), (0.15, 0.05)))
    density = who.beard_density * (0.35 if who.beard == "stubble" else 1.0)
    return np.minimum(area, 1) * smoothstep((1.25 - y) / 0.2) * np.float32(density)


def _lines(who: Identity, head: Head) -> Floats:
    """Wrinkles over the whole map: brow lines, folds from nose to mouth, bags under the eyes."""
    canvas = np.zeros(_SHAPE, np.float32)
    steps, t = np.linspace(-1, 1, 9), np.linspace(0, 1, 8)
    curves = [
        (0.30 * steps, who.brow_y - 0.11 - 0.075 * k + 0.02 * steps**2, 0.8 * who.age)
        for k in range(3)
    ]
    for sign in (-1, 1):
        fold = who.nose_width + 0.05 + (who.mouth_width - who.nose_width + 0.03) * t**0.8
        down = who.nose_y + (who.mouth_y + 0.03 - who.nose_y) * t
        curves.append((sign * fold, down, 0.25 + 0.75 * who.age))
        curves.append(
            (sign * who.eye_x + 0.13 * steps, 0.115 - 0.03 * steps**2, 0.2 + 0.7 * who.age)
        )
    for x, y, strength in curves:
        points = np.rint(head.texel(x, y) * 16).astype(np.int32)
        cv2.polylines(canvas, [points], False, strength, 1, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(canvas, (5, 5), 1.0))


def _marks(who: Identity, x: Floats, side: Floats, y: Floats, dots: Floats) -> Floats:
    """Light kept by shadows, moles and freckles of the face, in [0, 1]."""
    kept = 1 - (0.10 + 0.12 * who.age) * _spot(side, y, (who.eye_x - 0.02, 0.085), (0.12, 0.05))
    nostril = _spot(side, y, (0.50 * who.nose_width, who.nose_y + 0.055), (0.036, 0.018))
    kept *= 1 - 0.75 * np.minimum(1, 1.3 * nostril)
    kept *= 1 - 0.28 * _spot(side, y, (1.28 * who.nose_width, who.nose_y + 0.03), (0.022, 0.05))
    for mole_x, mole_y, size in who.moles:
        radius = 0.016 + 0.012 * size
        kept *= 1 - 0.7 * _spot(x, y, (mole_x, mole_y), (radius, radius))
    if who.freckles > 0:
        where = _spot(side, y, (0.22, 0.25), (0.32, 0.22))
        kept *= 1 - 0.35 * min(1.0, who.freckles) * smoothstep((dots - 1.5) / 0.5) * where
    return kept


def build_texture(who: Identity, head: Head) -> Image:
    """Colour map (TEXTURE_ROWS, TEXTURE_COLUMNS, 3) uint8 RGB without eyes, brows and mouth."""
    rng = np.random.Generator(np.random.Philox(who.texture_seed + 1))
    y_all = np.asarray(cv2.resize(np.ascontiguousarray(head.position[..., 1]), _SHAPE[::-1]))
    width = cv2.resize(head.width.reshape(-1, 1), (1, TEXTURE_ROWS))
    y = np.ascontiguousarray(y_all[_FACE_ROWS, _FRONT])
    x = np.sin(_TEXEL_THETA[_FRONT]) * width[_FACE_ROWS]
    side = np.abs(x)

    light = 1 + 0.022 * _noise(rng, 18, 22) + 0.022 * _noise(rng, 100, 120)
    dots = _noise(rng, 110, 140)[_FACE_ROWS, _FRONT]
    strands = 0.5 * _noise(rng, 10 + int(90 * who.hair_curl), 240) + 0.3 * _noise(rng, 30, 60)
    light *= 1 - 0.30 * _lines(who, head)
    light[_FACE_ROWS, _FRONT] *= _marks(who, x, side, y, dots)
    # An ear: a hollow at its middle and red skin around.
    around = np.abs(np.abs(_TEXEL_THETA) - np.float32(1.60))[None, :]
    light *= 1 - 0.42 * _spot(around, y_all, (0.0, 0.11), (0.09, 0.13))
    red = 0.14 * _spot(around, y_all, (0.0, 0.13), (0.2, 0.26))
    cheeks = _spot(side, y, (0.40, 0.34), (0.17, 0.15))
    cheeks += _spot(x, y, (0, who.nose_y), (0.10, 0.08))
    red[_FACE_ROWS, _FRONT] += 0.16 * who.blush * cheeks

    cover = np.asarray(cv2.resize(head.hair, _SHAPE[::-1]))
    if who.beard != "none":
        beard = _beard(who, x, side, y) * np.clip(0.85 + 0.3 * strands[_FACE_ROWS, _FRONT], 0, 1)
        cover[_FACE_ROWS, _FRONT] = np.maximum(cover[_FACE_ROWS, _FRONT], beard)
    hollow = np.asarray(cv2.resize(head.cavity, _SHAPE[::-1]))
    channels = []
    for skin, hair, redness in zip(who.skin, who.hair_colour, (0.1, 0.9, 0.8), strict=True):
        colour = light * skin
        colour *= 1 - redness * red
        tuft = (0.92 * hair) * (1 + 0.22 * strands) + 5.5 * strands
        colour += cover * (tuft - colour)
        channels.append(colour * hollow)
    return np.clip(cv2.merge(channels), 0, 255).astype(np.uint8)
