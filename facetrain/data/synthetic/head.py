"""The 3-D head: one closed grid of vertices per identity, and where each face point lies on it.

Rows run from the crown down to the neck, columns around the head from the back over one ear, the
face and the other ear to the back again. Cross-sections are ellipses from outline tables; nose,
sockets, lips, ears and hair displace them. What hides what follows from projecting the grid.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.synthetic.identity import Identity

ROWS, COLUMNS = 160, 193
TEXTURE_ROWS, TEXTURE_COLUMNS = 239, 289
_TOP_ROWS = 62
_TOP_Y, _END_Y = -0.30, 1.50
_LINEAR = 0.70  # share of the linear term: columns lie denser on the face than on the back

# Named for the reader; the checker cannot follow item types through OpenCV.
Floats = NDArray[Any]  # float32
Doubles = NDArray[Any]  # float64
Image = NDArray[Any]  # uint8 RGB

_S = np.linspace(-1.0, 1.0, COLUMNS)
THETA = np.pi * (_LINEAR * _S + (1 - _LINEAR) * _S**3)  # (COLUMNS,) radians, 0 = straight ahead
_FACE = slice(*np.searchsorted(THETA, [-1.75, 1.75]).tolist())  # columns of the face and the ears
_SIN, _COS = np.sin(THETA), np.cos(THETA)

# |theta| in degrees -> y of the hair's lower edge, for a plain short cut. The first two entries
# belong to the forehead and follow the identity's hair line.
_EDGE_DEGREES = np.array([0, 22, 45, 58, 67, 75, 82, 90, 103, 117, 140, 180], np.float64)
_EDGE_SHORT = np.array([0, 0, 0.06, 0.16, 0.36, 0.66, 0.60, 0.44, 0.52, 0.82, 0.95, 0.97])
_FAR_DOWN = 9.0


@dataclass(frozen=True)
class Head:
    """One identity's grid."""

    position: Floats  # (ROWS, COLUMNS, 3) head units, neutral expression
    normal: Floats  # (ROWS, COLUMNS, 3) unit, outward
    reach: Floats  # (ROWS, COLUMNS) position . normal.
    jaw: Floats  # (ROWS, COLUMNS) in [0, 1], how far a vertex follows the opening jaw
    cavity: Floats  # (ROWS, COLUMNS) light kept by hollow places, in (0, 1]
    hair: Floats  # (ROWS, COLUMNS) in [0, 1]
    width: Floats  # (ROWS,) half width of the skull
    crown: float  # height of the skull above the brow

    def texel(self, x: Doubles, y: Doubles) -> Floats:
        """Texture coordinates (N, 2), column then row, of points (x, y) on the front."""
        row = _row_of(y, self.crown)
        width = np.interp(row, np.arange(ROWS), self.width)
        theta = np.arcsin(np.clip(x / width, -0.999, 0.999))
        row = row + (ROWS - 1 - _TOP_ROWS) / (_END_Y - _TOP_Y) * _jaw_lift(y, np.cos(theta))
        column = np.interp(theta, THETA, np.arange(COLUMNS))
        scale = np.array([(TEXTURE_COLUMNS - 1) / (COLUMNS - 1), (TEXTURE_ROWS - 1) / (ROWS - 1)])
        return np.asarray(np.stack([column, row], axis=-1) * scale, np.float32)

    def surface(self, x: Doubles, y: Doubles) -> Floats:
        """The points (N, 3) of the neutral head at (x, y) on the front, bilinear in the grid."""
        texels = self.texel(x, y)
        column = texels[:, :1] * np.float32((COLUMNS - 1) / (TEXTURE_COLUMNS - 1))
        row = texels[:, 1:] * np.float32((ROWS - 1) / (TEXTURE_ROWS - 1))
        return np.asarray(cv2.remap(self.position, column, row, cv2.INTER_LINEAR)[:, 0])


def smoothstep(value: Doubles) -> Doubles:
    """0 below 0, 1 above 1, a cubic between."""
    clipped = np.clip(value, 0.0, 1.0)
    return np.asarray(clipped * clipped * (3 - 2 * clipped))


def normals(position: Floats) -> Floats:
    """Outward unit normals (ROWS, COLUMNS, 3) of a grid, by central differences."""
    across = np.empty_like(position)
    down = np.empty_like(position)
    across[:, 1:-1] = position[:, 2:] - position[:, :-2]
    across[:, [0, -1]] = position[:, [1]] - position[:, [-2]]  # the seam at the back
    down[1:-1] = position[2:] - position[:-2]
    down[0], down[-1] = down[1], down[-2]
    normal = np.empty_like(position)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        normal[..., axis] = across[..., i] * down[..., j] - across[..., j] * down[..., i]
    length = np.sqrt(np.einsum("rck,rck->rc", normal, normal))
    return np.asarray(normal / np.maximum(length, 1e-9)[..., None])


def _row_of(y: Doubles, crown: float) -> Doubles:
    upper = _TOP_ROWS * (1 - np.arcsin(np.clip((_TOP_Y - y) / crown, 0, 1)) / (np.pi / 2))
    lower = _TOP_ROWS + (y - _TOP_Y) / (_END_Y - _TOP_Y) * (ROWS - 1 - _TOP_ROWS)
    return np.where(y < _TOP_Y, upper, lower)


def _jaw_lift(y: Doubles, cosine: Doubles) -> Doubles:
    """How far the jaw line rises from the chin towards the ears."""
    rise = smoothstep((y - 0.5) / 0.5) * smoothstep((_END_Y - y) / 0.3)
    return np.asarray(0.24 * rise * (1 - np.clip(cosine, 0, 1)))


def _smooth(values: Doubles, sigma: float) -> Doubles:
    """A Gaussian along the rows of a table (ROWS,)."""
    column = np.ascontiguousarray(values).reshape(-1, 1)
    kernel = (1, 2 * int(np.ceil(3 * sigma)) + 1)
    return cv2.GaussianBlur(column, kernel, 0.1, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)[
        :, 0
    ]


def _blob(x: Doubles, y: Doubles, at: tuple[float, float], spread: tuple[float, float]) -> Doubles:
    """A Gaussian bump; y may be a column (rows, 1), which spares most of the exponentials."""
    across, down = (x - at[0]) * (1 / spread[0]), (y - at[1]) * (1 / spread[1])
    return np.asarray(np.exp(-across * across) * np.exp(-down * down))


def _features(who: Identity, x: Doubles, y: Doubles) -> Doubles:
    """Forward displacement of the face at (x, y): nose, sockets, brow, cheeks, lips, chin."""
    side = np.abs(x)
    tip = who.nose_y
    rows = np.array([-0.12, 0.0, 0.55 * tip, tip - 0.03, tip + 0.015, tip + 0.075, tip + 0.14])
    middle = 0.55 * who.nose_height + 0.3 * who.nose_bridge + who.nose_hump
    ridge = np.interp(
        y[:, 0],
        rows,
        [0, who.nose_bridge, middle, who.nose_height, 0.96 * who.nose_height, 0.05, 0],
    )
    ridge = _smooth_local(ridge)[:, None]
    half = np.interp(y[:, 0], [0.0, 0.5 * tip, tip], [0.06, 0.065, 0.8 * who.nose_width])[:, None]
    depth = ridge * (
        0.72 * np.exp(-((side / half) ** 2)) + 0.28 * np.exp(-((side / half / 2) ** 2))
    )
    wings = (who.nose_width, tip + 0.02)
    depth += 0.085 * _blob(side, y, wings, (0.045, 0.055))
    depth -= who.eye_depth * _blob(side, y, (who.eye_x, 0.0), (0.17, 0.10))
    depth += 0.035 * _blob(side, y, (who.eye_x, 0.0), (0.09, 0.06))
    depth += who.brow_ridge * _blob(side, y, (0.25, who.brow_y + 0.02), (0.24, 0.06))
    depth += who.cheekbone * _blob(side, y, (0.42, 0.24), (0.16, 0.16))
    depth -= 0.6 * who.cheekbone * _blob(side, y, (0.42, 0.62), (0.14, 0.16))
    lips = (0.8 * who.mouth_width, who.lip_upper + who.lip_lower)
    depth += 0.055 * _blob(x, y, (0, who.mouth_y), lips)
    depth -= 0.025 * _blob(side, y, (who.mouth_width + 0.03, who.mouth_y), (0.05, 0.06))
    depth -= 0.030 * _blob(x, y, (0, who.mouth_y + who.lip_lower + 0.06), (0.16, 0.045))
    depth += who.chin_depth * _blob(x, y, (0, who.chin_y - 0.10), (0.16, 0.10))
    return depth


def _smooth_local(ridge: Doubles) -> Doubles:
    return np.convolve(np.pad(ridge, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")


def _hair_edge(who: Identity) -> Doubles:
    """Height y (COLUMNS,) of the hair's lower edge; hair lies above it."""
    edge = who.hair_line + _EDGE_SHORT
    edge[2:6] = np.maximum(edge[2:6], edge[1])
    edge[6:] = -0.60 + _EDGE_SHORT[6:]  # around the ears and the nape
    degrees = np.degrees(np.abs(THETA))
    if who.hair_style == "bald":
        edge[:7] = -_FAR_DOWN
    elif who.hair_style == "fringe":
        edge[:4] = [-0.27, -0.26, -0.22, -0.10]
    elif who.hair_style == "afro":
        edge[7:9] += 0.25
    line = np.interp(degrees, _EDGE_DEGREES, edge)
    if who.hair_style in ("side", "long", "bob"):
        sweep = np.sin(THETA) * np.sign(who.hair_part) * (np.abs(THETA) < 1.1)
        line = line + 0.10 * np.clip(sweep, -0.4, 1.0)
    if who.hair_style in ("long", "bob"):
        end = 1.6 if who.hair_style == "long" else 0.82
        line = np.where(degrees > 61, np.maximum(line, end * smoothstep((degrees - 61) / 9)), line)
    if who.hair_style != "fringe":
        line = line + who.hair_peak * np.exp(-((THETA / 0.22) ** 2))
    return line


_VOLUME = {
    "bald": 0.012, "buzz": 0.015, "short": 0.05, "side": 0.08, "fringe": 0.08, "long": 0.08,
    "bob": 0.10, "afro": 0.17,
}  # fmt: skip


def _rows(who: Identity) -> tuple[Doubles, Doubles]:
    """Height of each row and the share of the full outline the dome leaves it, (ROWS,) both."""
    sine = np.sin(np.pi / 2 * (1 - np.arange(_TOP_ROWS) / _TOP_ROWS))
    top = _TOP_Y - who.crown * sine
    dome = np.ones(ROWS)
    dome[:_TOP_ROWS] = (1 - sine**2.5) ** (1 / 2.3)
    return np.concatenate([top, np.linspace(_TOP_Y, _END_Y, ROWS - _TOP_ROWS)]), dome


def build_head(who: Identity) -> Head:
    """The grid of an identity; a few milliseconds."""
    # Outlines at some heights, interpolated: half width, front and back.
    y_row, dome = _rows(who)
    chin = who.chin_y
    at = [-0.30, 0.0, 0.36, 0.66, chin - 0.17, chin - 0.04, chin + 0.05, _END_Y]
    middle = 0.5 * (who.head_width + who.cheek_width)
    low = 0.55 * who.jaw_width + 0.45 * who.chin_width
    width = np.interp(
        y_row,
        at,
        [who.head_width, middle, who.cheek_width, who.jaw_width, low, who.chin_width, 0.38, 0.44],
    )
    brow = 0.74 + who.forehead_depth
    front = np.interp(y_row, at, [brow, 0.72, 0.73, 0.74, 0.735, 0.66, 0.25, 0.22])
    back = np.interp(y_row, at, [0.95, 0.93, 0.84, 0.66, 0.60, 0.58, 0.58, 0.60])
    width, front, back = (_smooth(table, 3.0) * dome for table in (width, front, back))

    # The smooth head, then eyes, nose and mouth in relief on its front.
    x = width[:, None] * _SIN
    y = y_row[:, None] - _jaw_lift(y_row[:, None], _COS)
    z = np.where(_COS > 0, front[:, None], back[:, None]) * _COS
    face_rows = slice(_TOP_ROWS - 30, ROWS)
    depth = np.zeros((ROWS, COLUMNS), np.float32)
    face_x, face_y = x[face_rows, _FACE].astype(np.float32), y_row[face_rows, None]
    depth[face_rows, _FACE] = _features(who, face_x, face_y.astype(np.float32))
    depth[:, _FACE] *= smoothstep(_COS[_FACE] / 0.3).astype(np.float32)
    z = z + depth
    blurred = cv2.GaussianBlur(depth, (0, 0), 5)
    # Hollows are darker.
    cavity = 1 - np.clip(4.0 * (blurred - depth), 0, 0.25)
    cavity[y_row > chin] *= 0.72

    # Ears: the sides bulge outwards inside an ellipse, more so towards the back.
    along = (z + 0.06) / (0.15 * who.ear_size)
    up = (y - 0.13) / (0.25 * who.ear_size)
    ear = smoothstep((1.1 - along**2 - up**2) / 0.5) * (np.abs(_SIN) > 0.8)
    out = who.ear_out * ear * np.clip(0.6 - 0.45 * along, 0, 1.2)
    x = x + np.sign(_SIN) * out
    z = z - 0.35 * out

    # Hair lies above the skin; the jaw is what an open mouth moves.
    hair = _hair_mask(who, y)
    position = np.stack([x, y, z], axis=-1)
    position += _hair_weight(who, hair)[..., None] * (_hair_surface(who) - position)
    jaw = smoothstep((y - who.mouth_y) / 0.12) * smoothstep((_COS + 0.15) / 0.6)
    jaw *= smoothstep((_END_Y - y) / 0.3)
    grid = np.asarray(position, np.float32)
    normal = normals(grid)
    return Head(
        position=grid,
        normal=normal,
        reach=np.einsum("rck,rck->rc", grid, normal),
        jaw=jaw.astype(np.float32),
        cavity=cavity.astype(np.float32),
        hair=hair.astype(np.float32),
        width=np.maximum(width, 0.02).astype(np.float32),
        crown=who.crown,
    )


def _hair_mask(who: Identity, y: Doubles) -> Doubles:
    rng = np.random.Generator(np.random.Philox(who.texture_seed))
    jagged = np.convolve(rng.normal(0, 0.022, COLUMNS + 2), [0.3, 0.4, 0.3], mode="valid")
    mask = smoothstep((_hair_edge(who) + jagged - y) / 0.06 + 0.5)
    return mask * {"bald": 0.55, "buzz": 0.8}.get(who.hair_style, 1.0)


def _hair_weight(who: Identity, hair: Doubles) -> Doubles:
    """How far the grid follows the hair's surface: slower than the colour, so no cell tears."""
    blurred = cv2.GaussianBlur(hair, (0, 0), 1.2 + 10 * _VOLUME[who.hair_style])
    weight: Doubles = np.minimum(1.0, 1.3 * blurred)
    if who.hair_style in ("long", "bob"):
        behind = smoothstep((np.degrees(np.abs(THETA)) - 58) / 45)
        weight[_TOP_ROWS:] *= behind
        weight[_TOP_ROWS - 20 : _TOP_ROWS] *= np.linspace(1, 0, 20)[:, None] * (1 - behind) + behind
    return weight


def _hair_surface(who: Identity) -> Doubles:
    """Where the grid lies when it is hair: the skull grown by the volume, then hanging down."""
    volume = _VOLUME[who.hair_style] * who.hair_volume / 0.07
    shell = shell_around(who, volume, hanging=who.hair_style in ("long", "bob", "afro"))
    waves = 0.03 * who.hair_curl * np.sin(14 * shell[..., 1] + 9 * THETA)
    return shell * np.stack([1 + waves, np.ones_like(waves), 1 + waves], axis=-1)


def shell_around(who: Identity, volume: float, *, hanging: bool) -> Doubles:
    """A smooth grid (ROWS, COLUMNS, 3) around the skull, `volume` away from it."""
    y_row, dome = _rows(who)
    shape = [1, 1, 0.97, 1.02] if hanging else [1, 0.97, 0.8, 0.6]
    fall = np.interp(y_row, [-0.3, 0.25, 0.7, 1.5], shape)
    width, back = (who.head_width * fall + volume) * dome, (0.95 * fall + volume) * dome
    front = (0.74 + who.forehead_depth + volume) * dome
    z = np.where(_COS > 0, front[:, None], back[:, None]) * _COS
    y = np.broadcast_to((y_row - volume * (1 - dome))[:, None], z.shape)
    return np.stack([width[:, None] * _SIN, y, z], axis=-1)
