"""Similarity alignment of a face to the ArcFace five-point template."""

from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.csv_file import csv_rows

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


def similarity_transform(
    source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(2, 3) matrix of the rotation, uniform scale and shift that best map source to target.

    Least squares without reflection: S. Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", PAMI 13(4), 1991, equations 40-42.

    Args:
        source: (n, 2) points.
        target: (n, 2) points.

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


def align(image: NDArray[np.uint8], points: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """(size, size, 3) crop of an (H, W, 3) image with its five points on the template.

    Bilinear, black outside the image, as InsightFace's own preparation does.

    Args:
        image: any RGB image.
        points: (5, 2) pixel coordinates (x, y) of eyes, nose tip, mouth corners.
        size: side of the crop; the template is scaled by size / 112.

    Raises:
        DataError: degenerate points.
    """
    matrix = similarity_transform(points, ARCFACE_POINTS * (size / 112))
    return cast(NDArray[np.uint8], cv2.warpAffine(image, matrix, (size, size)))


def read_landmarks(path: Path) -> dict[str, NDArray[np.float64]]:
    """Five points by image path from a CSV `path,x1,y1,...,x5,y5`; a header line is optional.

    Raises:
        DataError: no such file, or a line that does not hold a path and ten numbers.
    """
    points: dict[str, NDArray[np.float64]] = {}
    for place, (number, row) in enumerate(csv_rows(path, "landmarks")):
        try:
            coordinates = np.array([float(cell) for cell in row[1:11]]).reshape(5, 2)
        except ValueError:
            if place == 0:
                continue  # the header
            raise DataError(
                f"{path}: line {number} must be path,x1,y1,...,x5,y5; got {row!r:.80}"
            ) from None
        points[row[0].strip().removeprefix("./")] = coordinates
    if not points:
        raise DataError(f"{path}: must hold lines of path,x1,y1,...,x5,y5, but has none")
    return points
