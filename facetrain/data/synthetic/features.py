"""Eyes, brows and mouth, painted on an identity's colour map for one sample's expression."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.synthetic.head import Doubles, Head, Image
from facetrain.data.synthetic.identity import Identity
from facetrain.data.synthetic.nuisance import Nuisance

_ARC = np.linspace(-1.0, 1.0, 11)
_BOW = 1 - _ARC**2
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 14)), np.sin(np.linspace(0, 2 * np.pi, 14))])


@dataclass(frozen=True)
class Frame:
    """Where a rectangle of the face lies on the colour map; nearly flat, so an affine map.

    Texel (column, row) of a point (x, y) from the rectangle's centre: `scale * (x, y) + offset`,
    counted from the texel `low`.
    """

    low: tuple[int, int]
    high: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]


def _frame(head: Head, centre: tuple[float, float], half: tuple[float, float]) -> Frame:
    x = centre[0] + np.array([-half[0], half[0], 0.0, 0.0])
    y = centre[1] + np.array([0.0, 0.0, -half[1], half[1]])
    texels = head.texel(x, y).tolist()
    left, right, top, bottom = texels[0][0], texels[1][0], texels[2][1], texels[3][1]
    low = int(left), int(top)
    return Frame(
        low=low,
        high=(int(right) + 2, int(bottom) + 2),
        scale=((right - left) / (2 * half[0]), (bottom - top) / (2 * half[1])),
        offset=((left + right) / 2 - low[0], (top + bottom) / 2 - low[1]),
    )


def feature_frames(head: Head, who: Identity) -> dict[str, Frame]:
    """The rectangles that `paint_features` paints in, once an identity."""
    frames = {"mouth": _frame(head, (0.0, who.mouth_y + 0.03), (0.40, 0.26))}
    for side, name in ((-1, "left"), (1, "right")):
        frames[f"{name} eye"] = _frame(head, (side * who.eye_x, 0.0), (0.24, 0.15))
        brow = side * (who.eye_x + 0.01), who.brow_y
        frames[f"{name} brow"] = _frame(head, brow, (0.27, 0.20))
    return frames


class _Patch:
    """A copy of a frame's texels, in which points of the face are drawn as polygons."""

    def __init__(self, texture: Image, frame: Frame) -> None:
        self._frame = frame
        self.view = texture[frame.low[1] : frame.high[1], frame.low[0] : frame.high[0]]
        self.image = np.ascontiguousarray(self.view)

    def points(self, x: Doubles, y: Doubles) -> NDArray[np.int32]:
        """Points (N, 2) of the patch, in sixteenths of a texel."""
        (scale_x, scale_y), (offset_x, offset_y) = self._frame.scale, self._frame.offset
        texels = np.empty((len(x), 2), np.int32)
        texels[:, 0] = x * (16 * scale_x) + 16 * offset_x
        texels[:, 1] = y * (16 * scale_y) + 16 * offset_y
        return texels

    def fill(self, x: Doubles, y: Doubles, colour: Doubles) -> None:
        cv2.fillPoly(self.image, [self.points(x, y)], colour.tolist(), cv2.LINE_AA, 4)

    def line(self, x: Doubles, y: Doubles, colour: Doubles, thickness: int = 1) -> None:
        points = [self.points(x, y)]
        cv2.polylines(self.image, points, False, colour.tolist(), thickness, cv2.LINE_AA, 4)

    def mask(self, x: Doubles, y: Doubles) -> NDArray[np.float32]:
        mask = np.zeros(self.image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self.points(x, y)], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32)[..., None] / np.float32(255)

    def put(self, sigma: float) -> None:
        self.view[:] = cv2.GaussianBlur(self.image, (5, 5), sigma)


def _paint_eye(texture: Image, frame: Frame, who: Identity, state: Nuisance, side: int) -> None:
    skin = np.array(who.skin) * 0.86
    patch = _Patch(texture, frame)
    before = patch.image.copy()
    a = who.eye_width
    opening = who.eye_open * max(0.06, 1 - state.eye_closed - 0.25 * max(0.0, state.smile))
    opening *= 1 + 0.18 * state.brow_raise
    tilt = -who.eye_tilt * _ARC * side * a * 1.5
    x = _ARC * a
    skew = 0.25 * side * _ARC
    upper = tilt - 0.95 * opening * _BOW**0.75 * (1 - skew)
    lower = tilt + 0.75 * opening * _BOW * (1 + skew)
    outline_x, outline_y = np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])

    inside = patch.mask(outline_x, outline_y)
    patch.image[:] = np.array([222, 218, 214]) * (0.7 + 0.3 * who.skin[0] / 228)
    iris = np.array(who.iris)
    at_x, at_y = 0.055 * state.gaze_x, 0.022 * state.gaze_y - 0.004
    patch.fill(at_x + 0.064 * _CIRCLE[0], at_y + 0.064 * _CIRCLE[1], iris * 0.5)
    patch.fill(at_x + 0.053 * _CIRCLE[0], at_y + 0.053 * _CIRCLE[1], iris)
    patch.fill(at_x + 0.027 * _CIRCLE[0], at_y + 0.027 * _CIRCLE[1], np.array([14, 12, 12]))
    glint = np.array([-0.02, 0.0, 0.02, 0.0])
    patch.fill(at_x - 0.02 + glint, at_y - 0.022 + glint[[1, 2, 3, 0]], np.array([250, 250, 250]))
    patch.line(x, upper + 0.018, np.array([120, 112, 108]))
    patch.image[:] = before + inside * (patch.image.astype(np.float32) - before)

    lash = np.minimum(np.array(who.hair_colour) * 0.35, skin * 0.4)
    patch.line(x * 1.04, upper - 0.004, lash, 2)
    patch.line(x[2:-1], lower[2:-1] + 0.004, skin * 0.62)
    if who.lid_fold > 0.15:
        fold = upper - 0.018 - 0.035 * who.lid_fold * _BOW**0.5
        patch.line(x * 1.05, fold, skin * (0.86 - 0.2 * min(1.0, who.lid_fold)))
    patch.put(0.7)


def _paint_brow(texture: Image, frame: Frame, who: Identity, state: Nuisance, side: int) -> None:
    skin, hair = np.array(who.skin), np.array(who.hair_colour)
    patch = _Patch(texture, frame)
    thick = who.brow_thick * np.interp(_ARC, [-1, -0.7, 0.3, 1], [0.65, 1.0, 0.85, 0.15])
    x = side * _ARC * who.brow_length
    bend = -who.brow_arch * (1 - (_ARC - 0.25) ** 2) - who.brow_tilt * 0.2 * _ARC
    bend = bend - 0.045 * state.brow_raise
    colour = 0.75 * np.minimum(hair, skin * 0.75) + 0.12 * skin
    patch.fill(
        np.concatenate([x, x[::-1]]),
        np.concatenate([bend - thick, (bend + thick)[::-1]]),
        colour,
    )
    patch.put(0.9)


def mouth_corner(who: Identity, state: Nuisance) -> tuple[float, float]:
    """(x, y) of the mouth's corner on the +x side, head units."""
    half = who.mouth_width * (1 + 0.18 * state.smile - 0.12 * state.mouth_open)
    return half, who.mouth_y - 0.05 * state.smile


def _paint_mouth(texture: Image, frame: Frame, who: Identity, state: Nuisance) -> None:
    skin = np.array(who.skin)
    lip = skin * [0.90, 0.70, 0.69] + np.array([12, -16, -8]) * max(0.0, who.lip_red)
    patch = _Patch(texture, frame)
    smile = state.smile
    a = mouth_corner(who, state)[0]
    gap = 0.02 * max(0.0, smile - 0.5) * 2 + 0.11 * state.mouth_open
    x = _ARC * a
    base = -0.03 + (mouth_corner(who, state)[1] - who.mouth_y) * np.abs(_ARC) ** 1.6
    seam_upper = base - 0.35 * gap * _BOW
    seam_lower = base + 0.65 * gap * _BOW**0.8
    dip = who.lip_bow * 0.35 * np.exp(-((_ARC / 0.18) ** 2))
    top = seam_upper - who.lip_upper * (1 - 0.25 * max(0.0, smile)) * (_BOW**0.7) * (1 - dip)
    bottom = seam_lower + who.lip_lower * (1 - 0.2 * max(0.0, smile)) * _BOW**0.75
    both = np.concatenate([x, x[::-1]])
    patch.fill(both, np.concatenate([top, bottom[::-1]]), lip)
    patch.fill(both, np.concatenate([top, seam_upper[::-1]]), lip * 0.84)
    patch.line(x[3:-3], (0.55 * bottom + 0.45 * seam_lower)[3:-3], lip * 1.10)
    if gap > 0.012:
        patch.fill(both, np.concatenate([seam_upper, seam_lower[::-1]]), np.array([52, 20, 22]))
        teeth = np.minimum(seam_upper + 0.026 * _BOW**0.5, seam_lower)
        colour = np.array([214, 206, 192]) * (0.7 + 0.3 * skin[0] / 228)
        patch.fill(both, np.concatenate([seam_upper, teeth[::-1]]), colour)
    else:
        patch.line(x, seam_upper, lip * 0.42)
    patch.line(x[3:-3], bottom[3:-3] + 0.03, skin * 0.74)
    for sign in (-1, 1):
        corner = sign * (a + 0.01) + np.array([0.0, 0.02 * sign])
        patch.line(corner, base[[0, 0]] + np.array([-0.015, 0.025]), skin * 0.62)
        if smile > 0.2:
            t = np.linspace(0, 1, 5)
            fold_x = sign * (a + 0.015 + 0.06 * np.sin(np.pi * t))
            patch.line(fold_x, base[0] - 0.13 + 0.18 * t, skin * (0.95 - 0.2 * smile))
    patch.put(0.8)


def paint_features(
    texture: Image, frames: dict[str, Frame], who: Identity, state: Nuisance
) -> Image:
    """A copy of the colour map (rows, columns, 3) with eyes, brows and mouth as `state` says."""
    painted = texture.copy()
    for side, name in ((-1, "left"), (1, "right")):
        _paint_eye(painted, frames[f"{name} eye"], who, state, side)
        _paint_brow(painted, frames[f"{name} brow"], who, state, side)
    _paint_mouth(painted, frames["mouth"], who, state)
    return painted
