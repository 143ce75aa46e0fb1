"""Who a synthetic person is: geometry, skin, hair and texture numbers drawn from (seed, identity).

Lengths are in head units: the pupils lie about 0.62 apart, x points to the image's right, y down
from the pupils' height, z towards the camera.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from facetrain.core.rng import numpy_generator

Doubles = NDArray[np.float64]

NUM_GROUPS = 4
HAIR_STYLES = ("bald", "buzz", "short", "side", "fringe", "long", "bob", "afro")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")

# Means that a group shifts; the spread within a group is as large as the shifts, so the groups
# overlap. Rows: groups. Columns: melanin, nose width, eye tilt, eye opening, lip, hair curl.
_GROUP_MEANS = np.array(
    [
        [0.14, -0.4, 0.0, 0.2, -0.3, 0.2],
        [0.27, 0.0, 0.9, -0.7, 0.0, 0.0],
        [0.46, 0.0, 0.3, 0.3, 0.2, 0.4],
        [0.72, 0.9, 0.1, 0.1, 0.9, 0.9],
    ]
)
_LIGHT_SKIN = np.array([228, 192, 170], np.float64)
_DARK_SKIN = np.array([84, 52, 38], np.float64)
_HAIR_COLOURS = np.array(
    [[22, 18, 17], [48, 32, 24], [86, 56, 36], [130, 92, 56], [196, 160, 104], [150, 74, 38],
     [150, 148, 146], [214, 210, 204]],
    np.float64,
)  # fmt: skip
_IRIS_COLOURS = np.array(
    [[52, 32, 20], [84, 52, 28], [110, 88, 46], [86, 108, 72], [82, 116, 148], [112, 122, 130]],
    np.float64,
)


@dataclass(frozen=True)
class Identity:
    """The parameters of one synthetic person; see the module's text for units."""

    group: int
    # Head outline.
    head_width: float
    cheek_width: float
    jaw_width: float
    chin_width: float
    chin_y: float
    chin_depth: float
    crown: float
    forehead_depth: float
    cheekbone: float
    ear_size: float
    ear_out: float
    # Eyes and brows.
    eye_x: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    eye_depth: float
    lid_fold: float
    iris: tuple[float, float, float]
    brow_y: float
    brow_thick: float
    brow_arch: float
    brow_tilt: float
    brow_length: float
    brow_ridge: float
    # Nose and mouth.
    nose_y: float
    nose_width: float
    nose_height: float
    nose_bridge: float
    nose_hump: float
    mouth_y: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_bow: float
    lip_red: float
    # Skin, hair and marks.
    skin: tuple[float, float, float]
    blush: float
    age: float
    freckles: float
    moles: tuple[tuple[float, float, float], ...]
    hair_style: str
    hair_colour: tuple[float, float, float]
    hair_line: float
    hair_peak: float
    hair_part: float
    hair_volume: float
    hair_curl: float
    beard: str
    beard_density: float
    texture_seed: int


def _mix(low: Doubles, high: Doubles, amount: float) -> Doubles:
    return np.asarray(low + (high - low) * amount)


def _colour(values: Doubles) -> tuple[float, float, float]:
    red, green, blue = np.clip(values, 0, 255).tolist()
    return (red, green, blue)


def choose(draw: float, shares: tuple[float, ...]) -> int:
    """The level that a uniform number in [0, 1) falls on; shares need not sum to one."""
    cumulative = np.cumsum(shares)
    return int(np.searchsorted(cumulative[:-1], draw * cumulative[-1], side="right"))


def draw_group(seed: int, identity: int, shares: tuple[float, ...]) -> int:
    """The group of an identity; drawn apart, so that other numbers do not depend on the odds."""
    return choose(float(numpy_generator(seed, "synthetic group", identity).random()), shares)


@lru_cache(maxsize=512)
def draw_identity(seed: int, identity: int, group: int) -> Identity:
    """The person that (seed, identity, group) stand for."""
    rng = numpy_generator(seed, "synthetic identity", identity)
    melanin_mean, nose, tilt, opening, lip, curl = _GROUP_MEANS[group]

    def normal(mean: float, spread: float, shift: float = 0.0) -> float:
        return float(mean + spread * np.clip(rng.standard_normal() + shift, -2.4, 2.4))

    # Skin, age, hair and beard depend on one another.
    melanin = float(np.clip(rng.normal(melanin_mean, 0.11), 0.0, 1.0))
    skin = _mix(_LIGHT_SKIN, _DARK_SKIN, melanin) + rng.normal(0, 6) + rng.normal(0, [3, 2, 4])
    age = float(rng.beta(1.3, 2.0))
    masculine = bool(rng.random() < 0.5)
    styles = (
        [0.10, 0.16, 0.26, 0.20, 0.14, 0.06, 0.02, 0.06]
        if masculine
        else [0.01, 0.03, 0.09, 0.12, 0.18, 0.33, 0.18, 0.06]
    )
    style = str(rng.choice(HAIR_STYLES, p=styles))
    beards = [0.46, 0.20, 0.09, 0.12, 0.13] if masculine else [1.0, 0, 0, 0, 0]
    beard = str(rng.choice(BEARDS, p=beards))
    dark = float(np.clip(0.25 + 1.1 * melanin, 0, 0.96))
    if age > 0.62 and rng.random() < 0.6:
        hair = _mix(_HAIR_COLOURS[6], _HAIR_COLOURS[7], rng.random())
    elif rng.random() < dark:
        hair = _mix(_HAIR_COLOURS[0], _HAIR_COLOURS[1], rng.random())
    else:
        hair = _mix(_HAIR_COLOURS[rng.integers(1, 6)], _HAIR_COLOURS[2], 0.5 * rng.random())
    brown = rng.random() < dark
    iris = _IRIS_COLOURS[rng.integers(0, 2) if brown else rng.integers(2, 6)]
    # What is left is independent, but for the head's width and the chin's height.
    moles = tuple(
        (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.5, 0.95)), float(rng.uniform(0.4, 1)))
        for _ in range(rng.poisson(0.9))
    )
    wide = normal(0.0, 1.0)
    chin_y = normal(1.10, 0.060)
    return Identity(
        group=group,
        head_width=0.715 + 0.030 * wide + normal(0, 0.015),
        cheek_width=0.675 + 0.030 * wide + normal(0, 0.022),
        jaw_width=0.575 + 0.030 * wide + normal(0.02 * masculine, 0.036),
        chin_width=normal(0.30 + 0.03 * masculine, 0.045),
        chin_y=chin_y,
        chin_depth=normal(0.06, 0.035),
        crown=normal(0.78, 0.055),
        forehead_depth=normal(0.0, 0.035),
        cheekbone=normal(0.045, 0.028),
        ear_size=normal(1.0, 0.13),
        ear_out=normal(0.13, 0.045),
        eye_x=normal(0.31, 0.020),
        eye_width=normal(0.140, 0.014),
        eye_open=normal(0.062, 0.011, opening),
        eye_tilt=normal(0.04, 0.07, tilt),
        eye_depth=normal(0.065, 0.022),
        lid_fold=normal(0.5, 0.3),
        iris=_colour(iris + rng.normal(0, 9, 3)),
        brow_y=normal(-0.185, 0.026),
        brow_thick=max(0.012, normal(0.030 + 0.008 * masculine, 0.010)),
        brow_arch=normal(0.035, 0.024),
        brow_tilt=normal(0.0, 0.09),
        brow_length=normal(0.19, 0.020),
        brow_ridge=normal(0.035 + 0.015 * masculine, 0.018),
        nose_y=normal(0.42, 0.034) * (0.5 + 0.5 * chin_y / 1.10),
        nose_width=normal(0.120, 0.020, nose),
        nose_height=normal(0.245, 0.036),
        nose_bridge=normal(0.085, 0.030, -nose),
        nose_hump=normal(0.0, 0.022),
        mouth_y=normal(0.705, 0.026) * (0.4 + 0.6 * chin_y / 1.10),
        mouth_width=normal(0.225, 0.026),
        lip_upper=max(0.016, normal(0.038, 0.011, lip)),
        lip_lower=max(0.022, normal(0.052, 0.012, lip)),
        lip_bow=normal(0.5, 0.3),
        lip_red=normal(0.5, 0.25) + (0.0 if masculine else 0.35 * float(rng.random())),
        skin=_colour(skin),
        blush=normal(0.5, 0.25),
        age=age,
        freckles=float(max(0.0, rng.normal(-0.5, 0.8)) * (melanin < 0.4)),
        moles=moles,
        hair_style=style,
        hair_colour=_colour(hair + rng.normal(0, 5, 3)),
        hair_line=normal(-0.60, 0.060) - (0.10 * age if masculine else 0.0),
        hair_peak=normal(0.0, 0.07),
        hair_part=float(rng.choice([-1, 1])) * float(rng.uniform(0.05, 0.35)),
        hair_volume=max(0.02, normal(0.07, 0.025)),
        hair_curl=float(np.clip(rng.normal(0.3 + 0.5 * curl, 0.25), 0, 1)),
        beard=beard,
        beard_density=float(rng.uniform(0.45, 0.95)),
        texture_seed=int(rng.integers(2**31)),
    )
