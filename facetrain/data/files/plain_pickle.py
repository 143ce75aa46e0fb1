"""Pickles that somebody else wrote, run with nothing but stand-ins at hand.

A pickle is a program. In this one no name leads anywhere but to a stand-in: not even NumPy's own
constructors are reached, so that nothing in the file is run and no length in it is believed.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from facetrain.core.errors import DataError


class _Dtype:
    """Stands for numpy.dtype: remembers name and byte order."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.order = order if order in ("<", ">") else "="


class PlainArray:
    """Stands for numpy.ndarray: remembers bytes, or the list of objects, and item type."""

    def __init__(self, *_: object) -> None:
        self.data: object = b""
        self.dtype: object = None
        self.by_columns = False

    def __setstate__(self, state: Any) -> None:
        *_, self.dtype, by_columns, self.data = state
        self.by_columns = bool(by_columns)

    @property
    def type_name(self) -> str:
        """As NumPy's `dtype.str` without its byte order: `u1`, `f4`; "" where there is none."""
        name = self.dtype.name if isinstance(self.dtype, _Dtype) else None
        return name.lstrip("|<>=") if isinstance(name, str) else ""

    def tobytes(self) -> bytes | None:
        """The bytes of a uint8 array; else None."""
        data = bytes(self.data) if isinstance(self.data, bytearray) else self.data
        return data if self.type_name == "u1" and isinstance(data, bytes) else None

    def items(self) -> list[Any] | None:
        """The items of an array of numbers, booleans or objects."""
        name, data = self.type_name, self.data
        if name[:1] == "O" and isinstance(data, list):
            return data
        if name not in _NUMBERS or not isinstance(data, bytes | bytearray):
            return None
        dtype = np.dtype(f"{self.dtype.order}{name}")  # type: ignore[attr-defined]
        return None if len(data) % dtype.itemsize else list(np.frombuffer(data, dtype).tolist())


_NUMBERS = ("b1", "?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f4", "f8")


def _reconstruct(*_: object) -> PlainArray:
    """Stands for numpy.core.multiarray._reconstruct; the state follows."""
    return PlainArray()


def _from_buffer(data: Any, dtype: object, *_: object) -> PlainArray:
    """Stands for numpy.core.numeric._frombuffer (pickle protocol 5)."""
    array = PlainArray()
    array.data, array.dtype = data, dtype
    return array


def _scalar(dtype: object, data: object = b"") -> PlainArray:
    """Stands for numpy.core.multiarray.scalar: a NumPy boolean, say."""
    return _from_buffer(data, dtype)


_STAND_INS: dict[str, Callable[..., object]] = {
    "numpy.ndarray": PlainArray,
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


class _Unpickler(pickle.Unpickler):
    """Resolves the names NumPy's arrays need to stand-ins, and no other name at all."""

    def __init__(self, data: bytes, must: str) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._must = must
        self._text_left = 2 * len(data)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "_codecs.encode":
            return self._encode
        if full_name in ("builtins.bytearray", "__builtin__.bytearray"):
            return self._bytearray
        if full_name not in _STAND_INS:
            raise DataError(
                f"{self._must}, but this pickle asks for {full_name}; it was refused and nothing "
                "was run. Do not use this file"
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


def load_plain(data: bytes, must: str, *, mappings: bool = False) -> Any:
    """What a pickle holds: plain objects, and a `PlainArray` for each array of NumPy's.

    Its opcodes are read first, without running them: a length beyond the file or a memo slot that
    nothing fills would make the unpickler allocate at will, and the hash of tuples within tuples
    may take for ever.

    Args:
        must: what must hold, for messages: `x.bin: must be a pickle of ...`.
        mappings: dictionaries may be in it.

    Raises:
        DataError: it is damaged, or asks for anything else.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _HASHING and not mappings:
                raise pickle.UnpicklingError("it holds a dictionary or a set")
            if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError(f"it numbers {argument} objects")
        return _Unpickler(data, must).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{must}; {error}") from None
