"""What stands before the face in the image: glasses, a hand, the brim of a cap."""

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.synthetic.covers import CAP_LINE
from facetrain.data.synthetic.head import Doubles, Head, Image
from facetrain.data.synthetic.identity import Identity
from facetrain.data.synthetic.surface import Surface, View

_TURN = np.linspace(0, 2 * np.pi, 21)


def _fixed(points: Doubles) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * 16), np.int32)


def _colour(values: Doubles) -> list[float]:
    return [float(v) for v in np.clip(values, 0, 255)]


def draw_glasses(
    image: Image,
    who: Identity,
    head: Head,
    view: View,
    seen: Surface,
    rng: np.random.Generator,
    gain: float,
) -> None:
    """Frames and lenses before the eyes, hidden where the head is nearer to the camera."""
    frame = np.array([[18, 18, 20], [70, 44, 26], [120, 118, 122], [110, 30, 34]][rng.integers(4)])
    frame = frame * gain
    half_x, half_y = rng.uniform(0.175, 0.21), rng.uniform(0.11, 0.155)
    square = rng.uniform(0.55, 1.0)
    dark = rng.random() < 0.3
    thickness = 1 + int(rng.random() < 0.5)
    eye_z = float(head.surface(np.array([who.eye_x]), np.zeros(1))[0, 2])
    plane = eye_z + 0.13
    ring_x = half_x * np.sign(np.cos(_TURN)) * np.abs(np.cos(_TURN)) ** square
    ring_y = 0.025 + half_y * np.sign(np.sin(_TURN)) * np.abs(np.sin(_TURN)) ** square
    segments = []
    for side in (-1, 1):
        ring = np.stack([side * who.eye_x + ring_x, ring_y, np.full(21, plane)], axis=1)
        ring[:, 2] -= 0.35 * ring[:, 0] ** 2
        flat = view.project(ring)
        # A lens is nearly flat: its depth is an affine function of the image point.
        design = np.concatenate([flat[:, :2], np.ones((21, 1))], axis=1)
        slope = np.linalg.solve(design.T @ design + 1e-6 * np.eye(3), design.T @ flat[:, 2])
        mask = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [_fixed(flat[:, :2])], 255, cv2.LINE_AA, 4)
        rows, columns = np.nonzero(mask)
        behind = seen.depth[rows, columns] < (
            slope[0] * columns + slope[1] * rows + slope[2] + 0.02
        )
        alpha = mask[rows, columns] * behind * ((0.82 if dark else 0.12) / 255)
        tint = np.array([16, 18, 22]) if dark else np.array([205, 212, 220]) * gain
        lens = image[rows, columns]
        image[rows, columns] = np.clip(lens + alpha[:, None] * (tint - lens), 0, 255)
        segments.append(ring)
        temple = np.linspace(
            [side * (who.eye_x + half_x), 0.0, ring[0, 2] - 0.02],
            [side * (who.head_width + 0.04), 0.02, -0.02], 9,
        )  # fmt: skip
        segments.append(temple)
    inner = who.eye_x - half_x
    bridge = np.array([[-inner, 0, plane], [-inner / 2, -0.03, plane + 0.04],
                       [inner / 2, -0.03, plane + 0.04], [inner, 0, plane]])  # fmt: skip
    segments.append(bridge)
    for line in segments:
        flat = view.project(line)
        at = np.clip(np.rint(flat[:, :2]).astype(int), 0, image.shape[0] - 1)
        visible = seen.depth[at[:, 1], at[:, 0]] < flat[:, 2] + 0.03
        pairs = [_fixed(flat[i : i + 2, :2]) for i in np.flatnonzero(visible[1:] & visible[:-1])]
        cv2.polylines(image, pairs, False, _colour(frame), thickness, cv2.LINE_AA, 4)


def draw_brim(image: Image, who: Identity, view: View, colour: Doubles, gain: float) -> None:
    """The brim of a cap, an arched plate before the forehead."""
    theta = np.linspace(-1.05, 1.05, 15)
    radius_x, radius_z = who.head_width + 0.06, 0.80 + who.forehead_depth
    inner = np.stack([radius_x * np.sin(theta), np.full(15, CAP_LINE), radius_z * np.cos(theta)], 1)
    outer = inner + np.stack(
        [0.06 * np.sin(theta), 0.11 - 0.05 * np.cos(theta), 0.50 * np.cos(theta) ** 0.6], 1
    )
    outer[:, 1] += 0.06 * np.abs(np.sin(theta))
    points = view.project(np.concatenate([inner, outer[::-1]]))[:, :2]
    cv2.fillPoly(image, [_fixed(points)], _colour(colour * 0.72 * gain), cv2.LINE_AA, 4)
    edge = [_fixed(points[15:])]
    cv2.polylines(image, edge, False, _colour(colour * 0.5 * gain), 1, cv2.LINE_AA, 4)


def draw_hand(
    image: Image, who: Identity, landmarks: Doubles, rng: np.random.Generator, gain: float
) -> None:
    """A hand of the same skin before a cheek, the mouth or an eye, coming in from outside."""
    side = 1 if rng.random() < 0.5 else -1
    centre = landmarks.mean(axis=0)
    target = centre + np.array([side * rng.uniform(2, 20), rng.uniform(-12, 22)])
    heading = np.radians(rng.uniform(-35, 35)) + (np.pi / 2)  # up in the image
    heading += side * np.radians(rng.uniform(5, 50))
    ahead = np.array([np.cos(heading), -np.sin(heading)])
    across = np.array([-ahead[1], ahead[0]])
    skin = np.array(who.skin) * gain * rng.uniform(0.72, 0.95)
    length, thick = rng.uniform(22, 30), int(rng.integers(7, 10))

    def stroke(start: Doubles, end: Doubles, width: int, colour: Doubles) -> None:
        a, b = _fixed(np.stack([start, end])).tolist()
        cv2.line(image, a, b, _colour(colour), width, cv2.LINE_AA, 4)

    palm = target - 0.75 * length * ahead
    stroke(palm - 60 * ahead, palm, 3 * thick, skin * 0.86)
    stroke(palm - 8 * ahead, palm + 2 * ahead, int(3.9 * thick), skin * 0.93)
    for k, reach in enumerate((0.82, 1.0, 0.95, 0.72)):
        root = palm + (k - 1.5) * 0.98 * thick * across
        tip = root + (reach * length + 0.5 * thick) * ahead + (k - 1.5) * 1.2 * across
        stroke(root, tip, thick + 1, skin * 0.62)
        stroke(root, tip, thick - 1, skin)
        stroke(tip - 1.0 * ahead, tip, max(2, thick - 4), skin * [1.04, 0.98, 0.98])
