"""Around the face: a cluttered background before it, the camera's faults after it."""

import cv2
import numpy as np

from facetrain.data.synthetic.head import Floats, Image
from facetrain.data.synthetic.nuisance import BLUR_SIGMAS, Nuisance

_LENS_SIGMA = 0.5  # every camera blurs a little; it also softens the renderer's edges

_GRAIN_SPREAD = 104.5  # standard deviation of the sum of two uniform bytes: 256 / sqrt(6)


def background(size: int, rng: np.random.Generator) -> Floats:
    """A blurred room of random shapes, (size, size, 3) float32 RGB."""
    knots = rng.uniform(50, 190, (4, 4, 1)) + rng.uniform(-28, 28, (4, 4, 3))
    small = cv2.resize(knots.astype(np.float32), (56, 56), interpolation=cv2.INTER_LINEAR)
    numbers = rng.random((6, 8))
    for n in numbers:
        colour = (30 + 190 * (0.6 * n[5:8] + 0.4 * n[4])).tolist()
        corner = (int(56 * n[0]), int(56 * n[1]))
        other = (int(56 * n[2]), int(56 * n[3]))
        if n[4] < 0.4:
            cv2.rectangle(small, corner, other, colour, -1)
        elif n[4] < 0.7:
            cv2.circle(small, corner, 2 + int(12 * n[2]), colour, -1)
        else:
            cv2.line(small, corner, other, colour, 1 + int(6 * n[4]))
    small = cv2.GaussianBlur(small, (0, 0), 0.6 + 2.4 * float(rng.random()))
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR))


def degrade(image: Image, state: Nuisance, rng: np.random.Generator) -> Image:
    """Tone curve, blur and sensor noise, (H, W, 3) uint8."""
    levels = np.linspace(0, 1, 256) ** state.gamma * 255
    image = cv2.LUT(image, np.rint(levels).astype(np.uint8))
    sigma = float(np.hypot(_LENS_SIGMA, BLUR_SIGMAS[state.blur]))
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    if state.noise > 0:
        # The sum of two uniform bytes: a triangular grain, far cheaper than normal numbers.
        grain = np.frombuffer(rng.bytes(2 * image.size), np.int8).reshape(2, *image.shape)
        both = cv2.add(grain[0], grain[1], dtype=cv2.CV_16S)
        image = cv2.addWeighted(image, 1.0, both, state.noise / _GRAIN_SPREAD, 0, dtype=cv2.CV_8U)
    return image
