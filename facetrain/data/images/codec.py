"""One image: decode, make square, encode. RGB everywhere: OpenCV decodes to it directly."""

import functools
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.images.decoder_warnings import with_warnings
from facetrain.data.images.image_header import FORMATS, ImageHeader, read_header

Image = NDArray[np.uint8]  # built once: in a cast it would be built for every image
MAX_PIXELS = 1 << 27
"""134 million: the largest cameras stay below."""
_BYTES_A_PIXEL = 6  # that decoding takes, at most
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
# Orientation is applied here: which formats OpenCV turns depends on its version.
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_with_warnings(encoded: bytes, where: str) -> tuple[Image, str]:
    """(H, W, 3) uint8 RGB of an encoded image, and what its decoder printed ("": nothing).

    Turned upright as its EXIF says; grey and alpha are converted. A JPEG that lacks its end marker
    is cut short: OpenCV fills the rest with grey, we refuse.

    Raises:
        DataError: naming `where`; more than MAX_PIXELS before they are decoded.
        MemoryError: there is none to decode it in.
    """
    header = image_header(encoded, where)
    if header.format == "JPEG" and encoded.rfind(_JPEG_END) < encoded.rfind(_JPEG_SCAN):
        raise DataError(f"{where}: must be a whole image, but the JPEG is cut short")
    image, warnings = with_warnings(lambda: _decode(encoded))
    if image is None:
        # What failed for want of memory fails here again: nothing is wrong with the image then.
        np.empty(header.width * header.height * _BYTES_A_PIXEL, np.uint8)
        why = f" ({warnings})" if warnings else ""
        raise DataError(
            f"{where}: must be an image, but its {len(encoded)} bytes do not decode{why}"
        )
    return _upright(image, header.orientation), warnings


def decode_image(encoded: bytes, where: str) -> Image:
    """(H, W, 3) uint8 RGB of an encoded image; what its decoder prints is logged with its name.

    Raises:
        DataError: naming `where`.
    """
    image, warnings = decode_with_warnings(encoded, where)
    if warnings:
        _log_once(where, warnings)
    return image


def image_header(encoded: bytes, where: str) -> ImageHeader:
    """What the image says of itself.

    Raises:
        DataError: no image of a format that is read here, or more than MAX_PIXELS.
    """
    header = read_header(encoded)
    if header is None:
        raise DataError(
            f"{where}: must be an image ({FORMATS}), but its {len(encoded)} bytes do not decode"
        )
    if header.width * header.height > MAX_PIXELS:
        raise DataError(
            f"{where}: must have at most {MAX_PIXELS} pixels, but says it has {header.width} x "
            f"{header.height}"
        )
    return header


def _decode(encoded: bytes) -> Image | None:
    try:
        return cast(Image | None, cv2.imdecode(np.frombuffer(encoded, np.uint8), _FLAGS))
    except cv2.error:
        return None


@functools.lru_cache(maxsize=4096)
def _log_once(where: str, warnings: str) -> None:
    """Not in every epoch."""
    logger.warning("%s: decodes, but is suspect: %s", where, warnings)


def _upright(image: Image, orientation: int) -> Image:
    """Undo an EXIF orientation: 2 to 4 mirror and turn by 180 degrees, 5 to 8 also transpose."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


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
