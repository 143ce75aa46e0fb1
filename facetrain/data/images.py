"""One image: decode, make square, encode. RGB everywhere (OpenCV 4.11 decodes to it directly)."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError

Image = NDArray[np.uint8]  # built once: in a cast it would be built for every image
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def decode_image(encoded: bytes, where: str) -> Image:
    """(H, W, 3) uint8 RGB of an encoded image; grey and alpha are converted.

    A JPEG that lacks its end marker is cut short: OpenCV fills the rest with grey, we refuse.

    Raises:
        DataError: naming `where`.
    """
    if encoded[:2] == _JPEG_START and encoded.rfind(_JPEG_END) < encoded.rfind(_JPEG_SCAN):
        raise DataError(f"{where}: must be a whole image, but the JPEG is cut short")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # no bytes, or more pixels than OpenCV allows
        image = None
    if image is None:
        raise DataError(f"{where}: must be an image, but its {len(encoded)} bytes do not decode")
    return cast(Image, image)


def fit_square(image: Image, size: int) -> Image:
    """The centre square of an (H, W, 3) image, resized to (size, size, 3)."""
    height, width = image.shape[:2]
    side = min(height, width)
    if side == size and height == width:
        return image
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    shrink = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cast(Image, cv2.resize(square, (size, size), interpolation=shrink))


def encode_jpeg(image: Image, quality: int = 95) -> bytes:
    """JPEG bytes of an (H, W, 3) RGB image."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return encoded.tobytes()
