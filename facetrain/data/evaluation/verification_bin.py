"""InsightFace verification sets: a `.bin` is a pickle of (encoded images, same flags).

Image pair i is bins[2i], bins[2i + 1]. Old files hold Python 2 strings, newer ones bytes or NumPy
uint8 arrays from `cv2.imencode`. A pickle is a program, so this one is run with nothing but
stand-ins at hand: not even NumPy's own constructors are reached.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import DataError
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
        content = _load_plain(self.path.read_bytes(), str(path))
        if not isinstance(content, list | tuple) or len(content) != 2:
            raise DataError(f"{path}: must be a pickle of (images, same), got {_describe(content)}")
        images, same = (part.items() if isinstance(part, _Array) else part for part in content)
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


class _Dtype:
    """Stands for numpy.dtype: remembers name and byte order."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.order = order if order in ("<", ">") else "="


class _Array:
    """Stands for numpy.ndarray: remembers bytes, or the list of objects, and item type."""

    def __init__(self, *_: object) -> None:
        self.data: object = b""
        self.dtype: object = None

    def __setstate__(self, state: Any) -> None:
        *_, self.dtype, _order, self.data = state

    def _name(self) -> str:
        name = self.dtype.name if isinstance(self.dtype, _Dtype) else None
        return name.lstrip("|<>=") if isinstance(name, str) else ""

    def tobytes(self) -> bytes | None:
        """The bytes of a uint8 array; else None."""
        data = bytes(self.data) if isinstance(self.data, bytearray) else self.data
        return data if self._name() == "u1" and isinstance(data, bytes) else None

    def items(self) -> list[Any] | None:
        """The items of an array of numbers, booleans or objects."""
        name, data = self._name(), self.data
        if name[:1] == "O" and isinstance(data, list):
            return data
        if name not in _NUMBERS or not isinstance(data, bytes | bytearray):
            return None
        dtype = np.dtype(f"{self.dtype.order}{name}")  # type: ignore[attr-defined]
        return None if len(data) % dtype.itemsize else list(np.frombuffer(data, dtype).tolist())


_NUMBERS = ("b1", "?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f4", "f8")


def _reconstruct(*_: object) -> _Array:
    """Stands for numpy.core.multiarray._reconstruct; the state follows."""
    return _Array()


def _from_buffer(data: Any, dtype: object, *_: object) -> _Array:
    """Stands for numpy.core.numeric._frombuffer (pickle protocol 5)."""
    array = _Array()
    array.data, array.dtype = data, dtype
    return array


def _scalar(dtype: object, data: object = b"") -> _Array:
    """Stands for numpy.core.multiarray.scalar: a NumPy boolean, say."""
    return _from_buffer(data, dtype)


_STAND_INS: dict[str, Callable[..., object]] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    """Resolves the names NumPy's arrays need to stand-ins, and no other name at all."""

    def __init__(self, data: bytes, where: str) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._where = where
        self._text_left = 2 * len(data)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "_codecs.encode":
            return self._encode
        if full_name in ("builtins.bytearray", "__builtin__.bytearray"):
            return self._bytearray
        if full_name not in _STAND_INS:
            raise DataError(
                f"{self._where}: a verification .bin holds images and booleans only, but this "
                f"pickle asks for {full_name}; it was refused and nothing was run. Do not use "
                "this file"
            )
        return _STAND_INS[full_name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside itself")

    def _encode(self, text: object, encoding: object = "latin1") -> bytes:
        """Stands for _codecs.encode: how Python 3 writes bytes in protocol 2."""
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1", "latin-1"):
            raise pickle.UnpicklingError("it encodes something else than latin1 text")
        self._text_left -= len(text)
        if self._text_left < 0:
            raise pickle.UnpicklingError("it unfolds to more than it holds")
        return text.encode("latin1")

    def _bytearray(self, data: object = b"", encoding: object = "latin1") -> bytes:
        """Stands for bytearray: of bytes, or in protocol 2 of latin1 text."""
        return data if isinstance(data, bytes) else self._encode(data, encoding)


_HASHING = ("DICT", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET")


def _load_plain(data: bytes, where: str) -> Any:
    """Run a pickle with nothing but stand-ins.

    Its opcodes are read first, without running them: a length beyond the file or a memo slot that
    nothing fills would make the unpickler allocate at will, and the hash of tuples within tuples
    may take for ever.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _HASHING:
                raise pickle.UnpicklingError("it holds a dictionary or a set")
            if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError(f"it numbers {argument} objects")
        return _PlainUnpickler(data, where).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{where}: must be an InsightFace .bin (a pickle of images and booleans); {error}"
        ) from None


def _describe(value: object) -> str:
    """What came, without its content: that may be an image, or not end."""
    if isinstance(value, _Array):
        return f"an array of {value._name() or 'an unknown type'}"
    if isinstance(value, list | tuple | dict | bytes | bytearray):
        return f"{type(value).__name__} of length {len(value)}"
    if isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return f"{value!r:.40}"
    return f"a {type(value).__name__}"


def _image_bytes(image: object, where: str) -> bytes:
    data = image.tobytes() if isinstance(image, _Array) else image
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise DataError(f"{where} must be encoded bytes or a uint8 array, got {_describe(image)}")


def _flag(value: object, where: str) -> bool:
    """Any 0 or 1: a boolean, a number, or NumPy's of either."""
    items = value.items() if isinstance(value, _Array) else [value]
    if items and len(items) == 1 and isinstance(items[0], bool | int | float):
        if items[0] in (0, 1):
            return bool(items[0])
        value = items[0]
    raise DataError(f"{where} must be 1 (same) or 0 (different), got {_describe(value)}")
