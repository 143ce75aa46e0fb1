"""One image from (seed, identity, sample): project, look up colour, light, occlude, degrade."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.images.align import ARCFACE_POINTS
from facetrain.data.synthetic import props
from facetrain.data.synthetic.covers import wear_cap, wear_mask
from facetrain.data.synthetic.features import Frame, feature_frames, mouth_corner, paint_features
from facetrain.data.synthetic.head import (
    COLUMNS,
    ROWS,
    TEXTURE_COLUMNS,
    TEXTURE_ROWS,
    Doubles,
    Floats,
    Head,
    Image,
    build_head,
)
from facetrain.data.synthetic.identity import Identity, draw_group, draw_identity
from facetrain.data.synthetic.nuisance import (
    CAP,
    GLASSES,
    HAND,
    MASK,
    Nuisance,
    SyntheticConfig,
    draw_nuisance,
)
from facetrain.data.synthetic.scene import background, degrade
from facetrain.data.synthetic.surface import View, rotation, visible_surface
from facetrain.data.synthetic.texture import build_texture

_CANVAS = 112  # pixels; other sizes are resampled from it
_CENTRE = (_CANVAS - 1) / 2
# The ArcFace template, shrunk about the image's centre so that hair and chin are in the picture.
_ZOOM = 0.86
_TARGET = (ARCFACE_POINTS - _CENTRE) * _ZOOM + _CENTRE
_CAP_COLOURS = np.array(
    [[32, 34, 44], [150, 36, 40], [36, 60, 120], [198, 194, 184], [52, 84, 56], [120, 96, 64]],
    np.float64,
)


@dataclass(frozen=True)
class Labels:
    """Exact labels of one image."""

    identity: int
    sample: int
    group: int  # 0..3, of the identity
    pose: int  # yaw bin 0..6; yaw, pitch, roll in degrees (signs as in `Nuisance`)
    yaw: float
    pitch: float
    roll: float
    occlusion: int  # index into `OCCLUSIONS`
    blur: int  # index into `BLUR_SIGMAS`
    landmarks: Floats
    """(5, 2) pupils, nose tip, mouth corners in pixels of the returned image; exact also where they
    are hidden."""


@lru_cache(maxsize=8)
def _person(who: Identity) -> tuple[Head, Image, dict[str, Frame]]:
    head = build_head(who)
    return head, build_texture(who, head), feature_frames(head, who)


def _landmarks(who: Identity, head: Head, state: Nuisance) -> Floats:
    """Pupils, nose tip and mouth corners (5, 3) of the head with this expression."""
    mouth_x, mouth_y = mouth_corner(who, state)
    x = np.array([-who.eye_x, who.eye_x, 0.0, -mouth_x, mouth_x])
    return head.surface(x, np.array([0.0, 0.0, who.nose_y, mouth_y, mouth_y]))


def _look_at(landmarks: Floats, state: Nuisance) -> View:
    """The camera that aligns the landmarks by shift and scale, then strays as `state` says."""
    turn = rotation(state.yaw, state.pitch, 0.0)
    points = View(turn, 1.0, np.zeros(2)).project(landmarks)[:, :2]
    centred, target = points - points.mean(axis=0), _TARGET - _TARGET.mean(axis=0)
    scale = float(np.clip((centred * target).sum() / (centred * centred).sum(), 40, 62))
    offset = _TARGET.mean(axis=0) - scale * points.mean(axis=0)
    roll = rotation(0.0, 0.0, state.roll)
    stray = _CENTRE + _CANVAS * np.array([state.shift_x, state.shift_y])
    offset = roll[:2, :2] @ (offset - _CENTRE) * state.scale + stray
    return View(roll @ turn, scale * state.scale, offset)


def _light(colour: Image, normal: Floats, view: View, state: Nuisance) -> Floats:
    """Ambient, soft Lambert and a gloss from one lamp; (H, W, 3) float32."""
    azimuth, height = np.radians([state.light_azimuth, state.light_height])
    lamp = np.array(
        [np.sin(azimuth) * np.cos(height), -np.sin(height), np.cos(azimuth) * np.cos(height)]
    )
    half = lamp + np.array([0.0, 0.0, 1.0])
    half = half / np.linalg.norm(half)
    terms = cv2.transform(normal, np.stack([lamp, half]) @ view.rotation)
    lambert = np.clip((terms[..., 0] + np.float32(0.25)) * np.float32(0.8), 0, 1)
    gloss = np.clip(terms[..., 1], 0, 1)
    for _ in range(4):
        gloss = gloss * gloss
    shade = np.float32(state.ambient) + np.float32(1.15 - state.ambient) * lambert
    gloss = gloss * np.float32(26)
    tint = state.gain * np.array([1 + state.warmth, 1.0, 1 - state.warmth])
    lit = cv2.multiply(colour, cv2.merge([shade, shade, shade]), dtype=cv2.CV_32F)
    lit = cv2.add(lit, cv2.merge([gloss, gloss, gloss]))
    return np.asarray(cv2.transform(lit, np.diag(tint)))


def render_person(who: Identity, state: Nuisance) -> tuple[Image, Doubles]:
    """The image (112, 112, 3) uint8 RGB of a person under `state`, and its landmarks (5, 2)."""
    head, texture, frames = _person(who)
    points = _landmarks(who, head, state)
    view = _look_at(points, state)
    rng = np.random.Generator(np.random.Philox(state.seed))
    prop_rng = np.random.Generator(np.random.Philox(state.seed + 1))
    room = background(_CANVAS, rng)
    texture = paint_features(texture, frames, who, state)
    cap = _CAP_COLOURS[prop_rng.integers(len(_CAP_COLOURS))]
    if state.occlusion == MASK:
        head, texture = wear_mask(who, head, texture, prop_rng)
    elif state.occlusion == CAP:
        head, texture = wear_cap(who, head, texture, cap)

    position = head.position
    if state.mouth_open > 0:
        position = position.copy()
        position[..., 1] += head.jaw * np.float32(0.07 * state.mouth_open)
    seen = visible_surface(head, position, view, _CANVAS)
    to_column = np.float32((TEXTURE_COLUMNS - 1) / (COLUMNS - 1))
    to_row = np.float32((TEXTURE_ROWS - 1) / (ROWS - 1))
    colour = cv2.remap(texture, seen.column * to_column, seen.row * to_row, cv2.INTER_LINEAR)
    normal = cv2.remap(head.normal, seen.column, seen.row, cv2.INTER_LINEAR)
    lit = _light(colour, normal, view, state)
    image = cv2.convertScaleAbs(cv2.blendLinear(lit, room, seen.coverage, 1 - seen.coverage))

    landmarks = view.project(points)[:, :2]
    if state.occlusion == GLASSES:
        props.draw_glasses(image, who, head, view, seen, prop_rng, state.gain)
    elif state.occlusion == HAND:
        props.draw_hand(image, who, landmarks, prop_rng, state.gain)
    elif state.occlusion == CAP:
        props.draw_brim(image, who, view, cap, state.gain)
    return degrade(image, state, rng), landmarks


def render(
    config: SyntheticConfig, identity: int, sample: int, nuisance: Nuisance | None = None
) -> tuple[NDArray[np.uint8], Labels]:
    """The image of (config.seed, identity, sample), alone and always the same.

    Args:
        config: seed, image size, and the odds of group and nuisance.
        identity: any integer >= 0; need not be below `config.num_identities`.
        sample: any integer >= 0.
        nuisance: replaces the drawn conditions (see `draw_nuisance`).

    Returns:
        image: (size, size, 3) uint8 RGB.
        labels: exact.
    """
    state = draw_nuisance(config, identity, sample) if nuisance is None else nuisance
    group = draw_group(config.seed, identity, config.group_shares)
    image, landmarks = render_person(draw_identity(config.seed, identity, group), state)
    size = config.size
    if size != _CANVAS:
        method = cv2.INTER_AREA if size < _CANVAS else cv2.INTER_CUBIC
        image = cv2.resize(image, (size, size), interpolation=method)
        landmarks = (landmarks + 0.5) * (size / _CANVAS) - 0.5
    return image, Labels(
        identity=identity, sample=sample, group=group, pose=state.pose, yaw=state.yaw,
        pitch=state.pitch, roll=state.roll, occlusion=state.occlusion, blur=state.blur,
        landmarks=np.asarray(landmarks, np.float32),
    )  # fmt: skip
