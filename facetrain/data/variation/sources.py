"""Where variation labels come from: the renderer, five landmarks, a table, how sharp it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.attributes import image_places, read_attributes
from facetrain.data.images.codec import Image
from facetrain.data.images.landmarks import read_landmarks
from facetrain.data.synthetic import BLUR_SIGMAS, OCCLUSIONS, POSE_EDGES, read_labels
from facetrain.data.variation.labels import UNKNOWN, Variations

POSE_NAMES = ("<-60", "-60..-35", "-35..-15", "-15..15", "15..35", "35..60", ">60")
"""Degrees of yaw; a positive one turns the nose to the image's right."""
SHARPNESS_NAMES = ("sharp", "light", "medium", "heavy")
SHARPNESS_EDGES = (0.064, 0.0195, 0.0103)
"""Falling edges between the blur levels: midway (in logarithm) between the medians of rendered
faces whose blur is known; see docs/finetune.md. Another kind of image wants edges of its own."""

# Left eye, right eye, nose tip, mouth corners of a generic head: the image's left first, x to the
# right, y down, z away from the camera, the interocular distance being 1. Fitted to no one: mean
# proportions, with the nose 0.55 in front of the plane of the eyes.
_HEAD = np.array(
    [[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.57, -0.55], [-0.4, 1.13, -0.07], [0.4, 1.13, -0.07]]
)
_FOCAL_LENGTH = 12.0  # in sizes of the face: nearly parallel rays, as in a portrait
_LEAST_SIZE, _MOST_PIXELS = 1e-3, 1e6  # pixels


def synthetic_variations(labels: Path) -> Variations:
    """The exact levels of rendered faces, from their `labels.npz`.

    `group` stands where a set of people would have an ethnicity.

    Raises:
        DataError: not a label table of `write_synthetic`.
    """
    try:
        table = read_labels(labels)
        level = {name: np.asarray(table[name]).astype(np.int8) for name in _synthetic_names()}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{labels}: must be the label table of rendered faces; {error}") from None
    return Variations(level, _synthetic_names())


def _synthetic_names() -> Mapping[str, tuple[str, ...]]:
    blur = tuple(f"sigma {sigma:g}" if sigma else "sharp" for sigma in BLUR_SIGMAS)
    group = tuple(f"group {number}" for number in range(4))
    return {"pose": POSE_NAMES, "occlusion": OCCLUSIONS, "blur": blur, "group": group}


def yaw_of_landmarks(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Signed yaw in degrees, (N,), of five points a face (N, 5, 2), in pixels, by a generic head.

    PnP on eyes, nose tip, mouth corners, the image's left ones first, before or after a similarity
    alignment (which does not change the yaw). Off by about 5 degrees within +-45, more beyond,
    where detectors are unsure of the points themselves. NaN where points are not finite, all on
    one spot, or of no head.
    """
    yaw = np.full(len(landmarks), np.nan)
    for number, points in enumerate(np.asarray(landmarks, np.float64)):
        if not np.abs(points).max() < _MOST_PIXELS:
            continue
        middle = points.mean(0)
        size = np.linalg.norm(points - middle, axis=1).mean()
        if size < _LEAST_SIZE:
            continue  # all on one spot: the solver would answer its first guess, a frontal face
        camera = np.array([[_FOCAL_LENGTH * size, 0, 0], [0, _FOCAL_LENGTH * size, 0], [0, 0, 1.0]])
        found, turn, shift = cv2.solvePnP(
            _HEAD, points - middle, camera, None,
            np.zeros(3), np.array([0.0, -0.57, _FOCAL_LENGTH / 1.2]),
            useExtrinsicGuess=True, flags=cv2.SOLVEPNP_ITERATIVE,
        )  # fmt: skip
        if found and float(shift[2, 0] if shift.ndim == 2 else shift[2]) > 0:
            rotation, _ = cv2.Rodrigues(turn)
            forward = -rotation[:, 2]  # where the nose points
            yaw[number] = np.degrees(np.arctan2(forward[0], -forward[2]))
    return yaw


def pose_levels(yaw: NDArray[np.floating]) -> NDArray[np.int8]:
    """The seven signed bins of a yaw in degrees, with edges -60, -35, -15, 15, 35, 60."""
    level = np.searchsorted(POSE_EDGES, yaw, side="right").astype(np.int8)
    return np.where(np.isfinite(yaw), level, UNKNOWN).astype(np.int8)


def sharpness(image: Image) -> float:
    """Variance of the Laplacian over the variance of grey, of the inner 3/4 of a face crop.

    The variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) of the image brought to 112
    pixels; divided by that of the grey levels it does not depend on light and contrast.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (112, 112), interpolation=cv2.INTER_AREA)[14:-14, 14:-14]
    values = grey.astype(np.float64)
    return float(cv2.Laplacian(values, cv2.CV_64F).var() / max(float(values.var()), 1e-6))


def blur_levels(sharp: NDArray[np.floating]) -> NDArray[np.int8]:
    """Blur levels 0 (sharpest) up, from `sharpness`, by SHARPNESS_EDGES."""
    falling = -np.asarray(SHARPNESS_EDGES), -np.asarray(sharp)
    return np.searchsorted(*falling, side="right").astype(np.int8)


def attribute_variations(path: Path, names: Sequence[str] | None, num_rows: int) -> Variations:
    """Any factors from a CSV with the header `image,<factor>,...`, one line an image.

    Args:
        path: see `read_attributes`; every line must be about an image of the data set.
        names: image names in the data set's order; None where `image` is the row's number.

    Raises:
        DataError: as `read_attributes`, or a factor of more than 127 levels.
    """
    found = read_attributes(path, num_rows if names is None else names, only_these=True)
    for factor, (levels, _) in found.items():
        if len(levels) > 127:
            raise DataError(f"{path}: {factor!r} must have at most 127 levels, has {len(levels)}")
    return Variations(
        {factor: level.astype(np.int8) for factor, (_, level) in found.items()},
        {factor: tuple(levels) for factor, (levels, _) in found.items()},
    )


def read_poses(path: Path, names: Sequence[str] | None, num_rows: int) -> Variations:
    """Pose levels from a CSV `image,x1,y1,...,x5,y5`, as `pack --landmarks` takes it.

    Raises:
        DataError: an image that the data set does not have, or other than ten numbers an image.
    """
    points = read_landmarks(path).points
    images = num_rows if names is None else names
    places = image_places(path, list(points), images, only_these=True)
    level = np.full(num_rows, UNKNOWN, np.int8)
    for image, pose in zip(
        points, pose_levels(yaw_of_landmarks(np.stack([*points.values()]))), strict=True
    ):
        level[places[image]] = pose
    return Variations({"pose": level}, {"pose": POSE_NAMES})
