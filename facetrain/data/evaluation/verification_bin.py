"""InsightFace verification sets: a `.bin` is a pickle of (encoded images, same flags).

Image pair i is bins[2i], bins[2i + 1]. Old files hold Python 2 strings, newer ones bytes or NumPy
uint8 arrays from `cv2.imencode`.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import DataError
from facetrain.data.files.plain_pickle import PlainArray, load_plain
from facetrain.data.images.codec import decode_image, fit_square


class VerificationSet:
    """P pairs of encoded images, and whether each shows one identity."""

    path: Path
    same: NDArray[np.bool_]  # (P,)
    _encoded: list[bytes]

    @classmethod
    def open(cls, path: Path) -> "VerificationSet":
        """Read an InsightFace `.bin`.

        Raises:
            DataError: no such file, not a pickle of pairs, or one that asks for anything else
                than byte strings, booleans and uint8 arrays; the first such thing is named.
        """
        self = cls()
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{path}: must be a verification .bin, but there is no such file")
        content = load_plain(
            self.path.read_bytes(),
            f"{path}: must be an InsightFace .bin (a pickle of images and booleans)",
        )
        if not isinstance(content, list | tuple) or len(content) != 2:
            raise DataError(f"{path}: must be a pickle of (images, same), got {_describe(content)}")
        images, same = (part.items() if isinstance(part, PlainArray) else part for part in content)
        if not isinstance(images, list | tuple) or not isinstance(same, list | tuple):
            came = " and ".join(map(_describe, content))
            raise DataError(f"{path}: must be a pickle of two lists, got {came}")
        if len(images) != 2 * len(same) or not same:
            raise DataError(
                f"{path}: must hold two images a pair, got {len(images)} for {len(same)} pairs"
            )
        self._encoded = [
            _image_bytes(image, f"{path}: image {i}") for i, image in enumerate(images)
        ]
        self.same = np.array([_flag(flag, f"{path}: pair {i}") for i, flag in enumerate(same)])
        return self

    @property
    def num_pairs(self) -> int:
        """P."""
        return len(self.same)

    def encoded(self, index: int) -> bytes:
        """Image file `index` of 0..2P-1; pair i is images 2i and 2i + 1."""
        return self._encoded[index]

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB.

        Raises:
            DataError: the image does not decode.
        """
        return fit_square(decode_image(self.encoded(index), f"{self.path}: image {index}"), size)


def write_bin(
    path: Path, encoded: Sequence[bytes], same: Sequence[bool] | NDArray[np.bool_]
) -> None:
    """Write a `.bin` that InsightFace reads: a pickle of plain bytes and bools, protocol 4.

    Raises:
        DataError: not two images a pair.
    """
    if len(encoded) != 2 * len(same):
        raise DataError(f"{path}: {len(same)} pairs need twice as many images, got {len(encoded)}")
    content = ([bytes(image) for image in encoded], [bool(flag) for flag in same])
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        pickle.dump(content, file, protocol=4)


def _describe(value: object) -> str:
    """What came, without its content: that may be an image, or not end."""
    if isinstance(value, PlainArray):
        return f"an array of {value.type_name or 'an unknown type'}"
    if isinstance(value, list | tuple | dict | bytes | bytearray):
        return f"{type(value).__name__} of length {len(value)}"
    if isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return f"{value!r:.40}"
    return f"a {type(value).__name__}"


def _image_bytes(image: object, where: str) -> bytes:
    data = image.tobytes() if isinstance(image, PlainArray) else image
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise DataError(f"{where} must be encoded bytes or a uint8 array, got {_describe(image)}")


def _flag(value: object, where: str) -> bool:
    """Any 0 or 1: a boolean, a number, or NumPy's of either."""
    items = value.items() if isinstance(value, PlainArray) else [value]
    if items and len(items) == 1 and isinstance(items[0], bool | int | float):
        if items[0] in (0, 1):
            return bool(items[0])
        value = items[0]
    raise DataError(f"{where} must be 1 (same) or 0 (different), got {_describe(value)}")
