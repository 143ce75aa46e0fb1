"""Files that nobody's tool writes by accident, and names that break lists and move cursors."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np


def _npy(shape: str, descr: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _npz(chance: random.Random) -> bytes:
    """An archive whose arrays are not what they should be."""
    names = ("embedding", "label", "kept", "is_clean", "clean_probability")
    member = chance.choice(
        (
            _npy("(99999999999, 512)"),
            _npy("(4, 2)", "|O", pickle.dumps([print])),
            _npy("(3,)", "<c8", bytes(24)),
            _npy("(-1, 4)"),
            _npy("(2, 2)", "<f4", np.full(4, np.nan, "f4").tobytes()),
            _npy("()", "<i8", bytes(8)),
            b"",
            chance.randbytes(100),
        )
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in chance.sample(names, chance.randint(1, len(names))):
            archive.writestr(f"{name}.npy", member)
    return content.getvalue()


def _yaml(chance: random.Random) -> bytes:
    """A recipe that YAML can say and nobody should."""
    key = chance.choice(
        ("seed", "train", "data", "model.width", "optimizer.learning_rate", "clean")
    )
    doubled = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))
    texts = (
        f"a0: &a0 [x]\n{doubled}\n",
        "a: &a [*a]\n",
        f"{key}: 2001-01-01\n",
        f"{key}: !!int x\n",
        f"{key}: {'9' * chance.choice((30, 5000))}\n",
        f"{key}: {chance.choice(('.inf', '-.inf', '.nan', '1e400', '-1', '1:2:3'))}\n",
        f"{key}: {'[' * 3000}{']' * 3000}\n",
        f"{key}: 1\n{key}: 2\n",
        "!!python/object/apply:os.system ['true']\n",
        "? [1, 2]\n: 3\n",
        "\x00\x01",
        "- a\n- b\n",
        "data: {path: data, workers: 5000}\n",
        "data: {path: [[data]]}\n",
    )
    return chance.choice(texts).encode()


def _json(chance: random.Random) -> bytes:
    """JSON that is not the schema."""
    depth = chance.choice((10, 100_000))
    values = ("null", "[]", "{}", "1e999", "9" * 5000, '"x"', "[" * depth + "]" * depth)
    keys = ("stage", "config", "inputs", "metrics", "digest", "files", "step", "identity")
    body = ", ".join(f'"{key}": {chance.choice(values)}' for key in keys)
    return chance.choice((f"{{{body}}}", chance.choice(values), f"{{{body}", "")).encode()


def _png(chance: random.Random) -> bytes:
    """A small file of a very large image, or of none."""
    width, height = chance.choice(((30_000, 30_000), (65_535, 1), (0, 0), (1, 2**31 - 1)))

    def chunk(name: bytes, data: bytes) -> bytes:
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(width + 1, 40_000) * 200), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _pickle(chance: random.Random) -> bytes:
    """A `.bin` that would run code, or that is no pair of lists."""

    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch executed",)

    nested: list[object] = []
    for _ in range(40):
        nested = [nested] * 8
    values = (
        pickle.dumps(Runs()),
        pickle.dumps(([b"x"] * 4, [True, False]), 2),
        pickle.dumps((nested, [True])),
        pickle.dumps([1, 2, 3]),
        pickle.dumps(([], [])),
        b"\x80\x02" + b"(" * 100_000,
        b"",
        chance.randbytes(200),
    )
    return chance.choice(values)


def _safetensors(chance: random.Random) -> bytes:
    """A header that promises what is not there."""
    header = chance.choice(
        (
            {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
            {"__metadata__": {"facetrain_model_config": '{"blocks": [1000000, 1, 1, 1]}'}},
            {"__metadata__": {"facetrain_model_config": "[" * 50_000}},
            {"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}},
        )
    )
    text = json.dumps(header).encode()
    return struct.pack("<Q", chance.choice((len(text), 2**60))) + text + bytes(8)


def _special(path: Path, chance: random.Random) -> str:
    """Something that is no file in a file's place."""
    kind = chance.choice(("fifo", "folder", "link to itself", "link to a device", "unreadable"))
    path.unlink(missing_ok=True)
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path.name)
        case "link to a device":
            path.symlink_to(chance.choice(("/dev/zero", "/dev/full")))
        case _:
            path.write_bytes(b"x")
            path.chmod(0)
    return kind


_CONTENT: dict[str, Callable[[random.Random], bytes]] = {
    ".yaml": _yaml,
    ".json": _json,
    ".npz": _npz,
    ".npy": lambda chance: chance.choice(
        (_npy("(99999999999, 8)"), _npy("(40, 8)", "|O"), _npy("(1,"), b"", b"\x93NUMPY")
    ),
    ".bin": _pickle,
    ".jpg": _png,
    ".safetensors": _safetensors,
    ".metadata": _pickle,
    ".rec": lambda chance: chance.choice(
        (b"", bytes(4096), struct.pack("<II", 0xCED7230A, 2**29 - 1), chance.randbytes(5000))
    ),
    ".idx": lambda chance: chance.choice(
        (b"", b"1\t-5\n", b"1\t99999999999999999999\n", b"x\ty\n", b"1\t0\n1\t0\n", b"\x00" * 64)
    ),
}
_NAMES = ("a\nb", "tab\t", "\x1b[31mred", "-rf", "$\\frac{$", "ü\u202e", "x" * 240, "caf\udce9")


def replace(path: Path, chance: random.Random) -> str:
    """Put something hostile in a file's place; says what."""
    if chance.random() < 0.25:
        return _special(path, chance)
    make = _CONTENT.get(path.suffix or path.name, lambda chance: chance.randbytes(300))
    path.write_bytes(make(chance))
    return f"hostile {path.suffix or path.name}"


def rename(folder: Path, chance: random.Random) -> str:
    """Give an image or a person in `folder` a name that breaks lists and moves cursors."""
    path = chance.choice(sorted(folder.glob(chance.choice(("*", "*/*")))))
    name = chance.choice(_NAMES)
    path.rename(path.with_name(name + path.suffix))
    return f"named {name!a}"
