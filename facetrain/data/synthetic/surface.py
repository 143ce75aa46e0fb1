"""Which point of the head each pixel sees: vertices splatted far to near, then solved exactly.

Every vertex that faces the camera marks its nearest pixel, nearer ones overwriting farther ones.
At each marked pixel one Newton step on the vertex's local Jacobian gives the grid coordinates
whose projection is the pixel's centre, so that textures are sampled smoothly.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.synthetic.head import COLUMNS, ROWS, Doubles, Floats, Head

DISTANCE = 7.0  # camera to the head's centre, in head units: mild perspective
_CROSS = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class View:
    """A camera: image point = scale * perspective(rotation @ point) + offset, in pixels."""

    rotation: Doubles
    scale: float
    offset: Doubles

    def project(self, points: NDArray[np.floating]) -> Doubles:
        """Image points and depth (N, 3), columns x, y, z (larger z is nearer), of (N, 3)."""
        turned = points @ self.rotation.T
        factor = self.scale * DISTANCE / (DISTANCE - turned[:, 2:])
        return np.concatenate([turned[:, :2] * factor + self.offset, turned[:, 2:]], axis=1)


@dataclass(frozen=True)
class Surface:
    """Per pixel (size, size): grid column and row, coverage in [0, 1], depth (-9: background)."""

    column: Floats
    row: Floats
    coverage: Floats
    depth: Floats


def rotation(yaw: float, pitch: float, roll: float) -> Doubles:
    """The head's rotation (3, 3); degrees, signs as in `Nuisance`."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(tilt @ nod @ turn)


def visible_surface(head: Head, position: Floats, view: View, size: int) -> Surface:
    """What each of size x size pixels sees of the head's grid, moved to `position`."""
    x, y, depth = (plane.ravel() for plane in cv2.split(cv2.transform(position, view.rotation)))
    factor = np.float32(view.scale * DISTANCE) / (np.float32(DISTANCE) - depth)
    x = x * factor + np.float32(view.offset[0])
    y = y * factor + np.float32(view.offset[1])
    # A vertex faces the camera when its normal leans towards the line of sight.
    ahead = view.rotation[2:] * DISTANCE
    shown = (cv2.transform(head.normal, ahead) > head.reach - np.float32(0.05)).ravel()
    edge = size - 0.5
    vertex = np.flatnonzero(shown & (x > -0.5) & (x < edge) & (y > -0.5) & (y < edge))
    level = ((depth.take(vertex) + 2) * 16000).astype(np.uint16)
    vertex = vertex.take(np.argsort(level, kind="stable"))
    column, row = ((axis.take(vertex) + np.float32(0.5)).astype(np.intp) for axis in (x, y))
    rank = np.zeros((size, size), np.float32)  # 1 + place in the order far to near; 0: no vertex
    rank.reshape(-1)[row * size + column] = np.arange(1, len(vertex) + 1, dtype=np.float32)
    # Where the grid is stretched, the surface behind (or nothing) shows between its vertices:
    # a pixel that lies far behind a closing of its neighbourhood takes the nearer vertex.
    spread = cv2.dilate(rank, _CROSS)
    closed = cv2.erode(spread, _CROSS).astype(np.intp).ravel()
    own = rank.astype(np.intp).ravel()
    ordered_depth = np.concatenate([[np.float32(-9)], depth.take(vertex)])
    own = np.where(ordered_depth.take(closed) - ordered_depth.take(own) > 0.05, closed, own)
    covered = own > 0
    own = np.where(covered, own, spread.astype(np.intp).ravel())
    vertex = np.concatenate([[0], vertex]).take(own)
    np.clip(vertex, COLUMNS + 1, ROWS * COLUMNS - COLUMNS - 2, out=vertex)

    left, right, above, below = vertex - 1, vertex + 1, vertex - COLUMNS, vertex + COLUMNS
    half = np.float32(0.5)
    x_column, y_column = ((axis.take(right) - axis.take(left)) * half for axis in (x, y))
    x_row, y_row = ((axis.take(below) - axis.take(above)) * half for axis in (x, y))
    pixel = np.arange(size, dtype=np.float32)
    miss_x = np.tile(pixel, size) - x.take(vertex)
    miss_y = np.repeat(pixel, size) - y.take(vertex)
    determinant = x_column * y_row - x_row * y_column
    inverse = np.float32(1) / np.where(np.abs(determinant) < 0.02, np.float32(np.inf), determinant)
    step_column = np.clip((y_row * miss_x - x_row * miss_y) * inverse, -1.5, 1.5)
    step_row = np.clip((x_column * miss_y - y_column * miss_x) * inverse, -1.5, 1.5)
    vertex_row, vertex_column = np.divmod(vertex.astype(np.int32), np.int32(COLUMNS))
    shape = (size, size)
    return Surface(
        column=(vertex_column + step_column).reshape(shape).astype(np.float32),
        row=(vertex_row + step_row).reshape(shape).astype(np.float32),
        coverage=np.asarray(
            cv2.GaussianBlur(covered.reshape(shape).astype(np.float32), (3, 3), 0.6)
        ),
        depth=np.where(covered, ordered_depth.take(own), np.float32(-9)).reshape(shape),
    )
