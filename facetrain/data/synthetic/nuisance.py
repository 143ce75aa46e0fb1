"""Everything about one image that is not the identity, and the odds it is drawn with."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from facetrain.core.config import Config
from facetrain.core.rng import numpy_generator
from facetrain.data.synthetic.identity import NUM_GROUPS, choose

POSE_EDGES = (-60.0, -35.0, -15.0, 15.0, 35.0, 60.0)  # degrees of yaw between the seven bins
MAX_YAW = 75.0
NUM_POSES = len(POSE_EDGES) + 1
OCCLUSIONS = ("none", "glasses", "mask", "hand", "cap")
BLUR_SIGMAS = (0.0, 1.1, 2.0, 3.2)  # pixels of a 112-pixel image
NONE, GLASSES, MASK, HAND, CAP = range(len(OCCLUSIONS))

Share = Annotated[float, Field(ge=0)]


class SyntheticConfig(Config):
    """What a synthetic data set holds. Shares need not sum to one.

    `difficulty` scales light, expression, pitch, misalignment and noise, and is 0 for passport
    photographs under one lamp; the shares say how often each pose, occluder and blur occurs.
    """

    seed: int = 0
    num_identities: int = Field(default=200, ge=1)
    first_identity: int = Field(default=0, ge=0)
    min_images: int = Field(default=20, ge=1)
    max_images: int = Field(default=20, ge=1)
    size: int = Field(default=112, ge=16)
    difficulty: float = Field(default=1.0, ge=0, le=2)
    pose_shares: tuple[Share, ...] = (0.04, 0.08, 0.17, 0.42, 0.17, 0.08, 0.04)
    occlusion_shares: tuple[Share, ...] = (0.70, 0.12, 0.06, 0.06, 0.06)
    blur_shares: tuple[Share, ...] = (0.62, 0.20, 0.12, 0.06)
    group_shares: tuple[Share, ...] = (0.4, 0.25, 0.2, 0.15)

    @model_validator(mode="after")
    def _check(self) -> "SyntheticConfig":
        if self.max_images < self.min_images:
            raise ValueError(f"max_images must be at least min_images={self.min_images}")
        for name, count in (
            ("pose", NUM_POSES), ("occlusion", len(OCCLUSIONS)), ("blur", len(BLUR_SIGMAS)),
            ("group", NUM_GROUPS),
        ):  # fmt: skip
            shares = getattr(self, f"{name}_shares")
            if len(shares) != count or sum(shares) <= 0:
                raise ValueError(f"{name}_shares must be {count} numbers, not all zero")
        return self


@dataclass(frozen=True)
class Nuisance:
    """One sample's conditions. Angles in degrees; `seed` feeds noise, clutter and occluders.

    Positive yaw turns the nose to the image's right, positive pitch lifts it, positive roll
    turns the head clockwise in the image. Lengths are shares of the image side.
    """

    seed: int
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    occlusion: int = NONE
    blur: int = 0
    shift_x: float = 0.0
    shift_y: float = 0.0
    scale: float = 1.0
    light_azimuth: float = -20.0
    light_height: float = 35.0
    ambient: float = 0.6
    gain: float = 1.0
    gamma: float = 1.0
    warmth: float = 0.0
    mouth_open: float = 0.0
    smile: float = 0.0
    brow_raise: float = 0.0
    eye_closed: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    noise: float = 0.0

    @property
    def pose(self) -> int:
        """The yaw bin, 0 (far left) to 6 (far right)."""
        return int(np.searchsorted(POSE_EDGES, self.yaw, side="right"))


def draw_nuisance(
    config: SyntheticConfig,
    identity: int,
    sample: int,
    *,
    pose: int | None = None,
    occlusion: int | None = None,
    blur: int | None = None,
) -> Nuisance:
    """The conditions of (config.seed, identity, sample); a level passed in replaces the drawn one.

    All other numbers stay as they are when a level is replaced.
    """
    rng = numpy_generator(config.seed, "synthetic sample", identity, sample)
    uniform = rng.random(24)
    normal = np.clip(rng.standard_normal(16), -2.5, 2.5) * config.difficulty
    strength = min(config.difficulty, 1.0)
    pose = choose(uniform[0], config.pose_shares) if pose is None else pose
    occlusion = choose(uniform[1], config.occlusion_shares) if occlusion is None else occlusion
    blur = choose(uniform[2], config.blur_shares) if blur is None else blur
    edges = (-MAX_YAW, *POSE_EDGES, MAX_YAW)
    return Nuisance(
        seed=int(rng.integers(2**62)),
        yaw=float(edges[pose] + (edges[pose + 1] - edges[pose]) * uniform[3]),
        pitch=float(np.clip(9.0 * normal[0], -28, 28)),
        roll=float(4.0 * normal[1]),
        occlusion=occlusion,
        blur=blur,
        shift_x=float(0.018 * normal[2]),
        shift_y=float(0.018 * normal[3]),
        scale=float(np.exp(0.045 * normal[4])),
        light_azimuth=float(-20.0 + 45.0 * normal[5]),
        light_height=float(np.clip(35.0 + 25.0 * normal[6], -25, 80)),
        ambient=float(0.62 - 0.34 * strength * uniform[4]),
        gain=float(np.exp(0.22 * normal[7] - 0.05)),
        gamma=float(np.exp(0.16 * normal[8])),
        warmth=float(0.10 * normal[9]),
        mouth_open=float(strength * max(0.0, 1.7 * uniform[5] - 0.9)),
        smile=float(strength * (1.4 * uniform[6] - 0.4)),
        brow_raise=float(0.5 * normal[10]),
        eye_closed=float(strength * max(0.0, 3.0 * uniform[7] - 2.1)),
        gaze_x=float(0.4 * normal[11]),
        gaze_y=float(0.25 * normal[12]),
        noise=float(strength * 9.0 * uniform[8] ** 2),
    )
