"""One image: decode, make square, encode. RGB everywhere (OpenCV 4.11 decodes to it directly)."""

import functools
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.decoder_words import listening

Image = NDArray[np.uint8]  # built once: in a cast it would be built for every image
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def decode_noting(encoded: bytes, where: str) -> tuple[Image, str]:
    """(H, W, 3) uint8 RGB of an encoded image, and what its decoder printed ("": nothing).

    Grey and alpha are converted. A JPEG that lacks its end marker is cut short: OpenCV fills the
    rest with grey, we refuse.

    Raises:
        DataError: naming `where`.
    """
    if encoded[:2] == _JPEG_START and encoded.rfind(_JPEG_END) < encoded.rfind(_JPEG_SCAN):
        raise DataError(f"{where}: must be a whole image, but the JPEG is cut short")
    image, words = listening(lambda: _decode(encoded))
    if image is None:
        said = f" ({words})" if words else ""
        raise DataError(
            f"{where}: must be an image, but its {len(encoded)} bytes do not decode{said}"
        )
    return image, words


def decode_image(encoded: bytes, where: str) -> Image:
    """(H, W, 3) uint8 RGB of an encoded image; what its decoder prints is logged with its name.

    Raises:
        DataError: naming `where`.
    """
    image, words = decode_noting(encoded, where)
    if words:
        _log_once(where, words)
    return image


def _decode(encoded: bytes) -> Image | None:
    try:
        pixels = np.frombuffer(encoded, np.uint8)
        return cast(Image | None, cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB))
    except cv2.error:  # no bytes, or more pixels than OpenCV allows
        return None


@functools.lru_cache(maxsize=4096)
def _log_once(where: str, words: str) -> None:
    """Not in every epoch."""
    logger.warning("%s: decodes, but is suspect: %s", where, words)


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
