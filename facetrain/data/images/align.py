"""Similarity alignment of a face to the ArcFace five-point template."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError

# Eyes, nose tip, mouth corners (image left first) in a 112 x 112 crop (insightface).
ARCFACE_POINTS = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
_MOST_SIDE = 32766  # pixels: what OpenCV's remapping can address


def similarity_transform(
    source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(2, 3) matrix of the rotation, uniform scale and shift that best map points (n, 2) to others.

    Least squares without reflection: S. Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", PAMI 13(4), 1991, equations 40-42.

    Raises:
        DataError: points that are not finite, or all on one spot.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_centred, target_centred = source - source_mean, target - target_mean
    variance = (source_centred**2).sum()
    if not np.isfinite(variance) or variance < 1e-6:
        raise DataError("landmarks must be finite and apart")
    U, singular, Vt = np.linalg.svd(target_centred.T @ source_centred)
    sign = np.array([1.0, np.sign(np.linalg.det(U @ Vt))])
    rotation = U @ np.diag(sign) @ Vt
    scale = (singular * sign).sum() / variance
    shift = target_mean - scale * rotation @ source_mean
    return np.column_stack([scale * rotation, shift])


def align(
    image: NDArray[np.uint8], points: NDArray[np.float64], size: int, *, shrink: bool = True
) -> NDArray[np.uint8]:
    """(size, size, 3) crop of an (H, W, 3) image with its five points on the template.

    Bilinear, black outside the image, as InsightFace's own preparation does.

    Args:
        image: any RGB image.
        points: (5, 2) pixel coordinates (x, y) of eyes, nose tip, mouth corners.
        size: side of the crop; the template is scaled by size / 112.
        shrink: a face of more than twice the crop's size is first shrunk by area, for bilinear
            sampling would skip pixels; False where a published protocol is to be met.

    Raises:
        DataError: degenerate points, or points so far apart or outside that no pixel of the image
            would be in the crop.
    """
    matrix = similarity_transform(points, ARCFACE_POINTS * (size / 112))
    return warp(image, matrix, size, shrink=shrink)


def warp(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int, *, shrink: bool = True
) -> NDArray[np.uint8]:
    """(size, size, 3) of an (H, W, 3) image under a (2, 3) similarity, reflections included.

    Raises:
        DataError: no pixel of the image would be in it.
    """
    inverse = np.linalg.inv(matrix[:, :2])
    corners = np.array([(0, 0), (size, 0), (0, size), (size, size)]) - matrix[:, 2]
    corners = corners @ inverse.T
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=0)) - 2, 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 3, 0, limit).astype(int)
    if (low >= high).any():
        raise DataError(
            f"landmarks must lie in the image of {limit[0]} x {limit[1]} pixels, but the face "
            "would be outside"
        )
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    shrink = shrink and scale < 0.5
    if shrink or max(image.shape[:2]) > _MOST_SIDE:
        image = image[low[1] : high[1], low[0] : high[0]]
        matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ low])
    if shrink:
        extent = high - low
        small = np.maximum(np.rint(extent * 2 * scale), 1).astype(int)
        image = cast(NDArray[np.uint8], cv2.resize(image, small, interpolation=cv2.INTER_AREA))
        factor = extent / small  # pixel centres: x = (x_small + 0.5) * factor - 0.5
        turn = matrix[:, :2] * factor
        matrix = np.column_stack([turn, matrix[:, 2] + matrix[:, :2] @ (0.5 * factor - 0.5)])
    return cast(NDArray[np.uint8], cv2.warpAffine(image, matrix, (size, size)))
