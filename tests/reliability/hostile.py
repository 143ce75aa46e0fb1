"""Files that nobody's tool writes by accident, and names that break lists and move cursors."""

import gzip
import io
import json
import os
import pickle
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from reliability.damage import retyped

from facetrain.core.digest import content_digest


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
    """Something that is no such file in a file's place."""
    kind = chance.choice(
        ("fifo", "socket", "folder", "full folder", "link to itself", "link to a device",
         "link to nothing", "link to a folder", "unreadable")
    )  # fmt: skip
    path.unlink(missing_ok=True)
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "folder":
            path.mkdir()
        case "full folder":
            path.mkdir()
            (path / "x").write_bytes(b"x")
        case "link to itself":
            path.symlink_to(path.name)
        case "link to a device":
            path.symlink_to(chance.choice(("/dev/zero", "/dev/full")))
        case "link to nothing":
            path.symlink_to("nothing")
        case "link to a folder":  # of an image to that of its person; else to an empty one
            path.with_name("void").mkdir()
            path.symlink_to("." if path.suffix == ".jpg" else "void")
        case _:
            path.write_bytes(b"x")
            path.chmod(0)
    return kind


def replace_folder(path: Path, chance: random.Random) -> str:
    """Put something else in a folder's place; says what."""
    kind = chance.choice(("gone", "emptied", "a file", "a link to itself", "moved behind a link"))
    aside = path.with_name(f"aside {path.name}")
    path.rename(aside)
    match kind:
        case "emptied":
            path.mkdir()
        case "a file":
            path.write_bytes(b"x")
        case "a link to itself":
            path.symlink_to(path.name)
        case "moved behind a link":
            path.symlink_to(aside.name)
    return kind


def _tar(chance: random.Random) -> bytes:
    """A tar that unpacks elsewhere, or to more than it holds."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3):
            name = chance.choice(
                ("../../executed", "/tmp/executed", "a/../../executed", "p/x.jpg", "p/\udce9.jpg",
                 "p/a\nb.jpg", "\x1b[31m/x.jpg", "x.jpg", f"{'d/' * 200}x.jpg")
            )  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type = chance.choice(
                (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                 tarfile.FIFOTYPE, tarfile.DIRTYPE, b"Z")
            )  # fmt: skip
            member.linkname = chance.choice(("/etc/passwd", name, "../executed"))
            if chance.random() < 0.3:
                member.pax_headers = {"size": chance.choice(("-1", "9" * 30, "x"))}
            body = chance.randbytes(number * 100)
            member.size = len(body) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(body) if member.isreg() else None)
    whole = content.getvalue()
    return chance.choice((whole, whole, gzip.compress(whole), gzip.compress(bytes(1 << 26)),
                          whole[:512], bytes(10_240)))  # fmt: skip


def _table(chance: random.Random) -> bytes:
    """A list of images, points or templates whose lines nobody can mean."""
    line = chance.choice(
        ("0\t-1\tx.jpg", "0\t99999999\tx.jpg", "0\t1e9\timages", "0\tnan\t/dev/zero", "\x00",
         "0\t0\t../../../etc/passwd", "0\t0", "0", "", "x,1,2,3", f"0,{','.join(['nan'] * 10)}",
         f"0,{','.join(['1e300'] * 10)}", f"-1,{','.join(['5'] * 10)}", "a b c d e", "1 2", "1,1,1",
         f"{'9' * 5000},1", "\t" * 10_000, "name,x1,y1", "\ufeff0\t0\tx", "\ud800")
    )  # fmt: skip
    return f"{line}\n".encode(errors="surrogatepass") * chance.choice((1, 2, 40, 5000))


def _onnx(chance: random.Random) -> bytes:
    """A network that does not end, asks for the moon, or reads files."""
    huge = onnx.TensorProto(name="matrix", data_type=1, dims=[1 << 40])
    outside = onnx.TensorProto(name="matrix", data_type=1, dims=[4], data_location=1)
    outside.external_data.add(key="location", value=chance.choice(("/dev/zero", "../net.onnx")))
    nodes = chance.choice((
        [onnx.helper.make_node("Identity", ["image"], ["embedding"])],
        [onnx.helper.make_node("Expand", ["image", "shape"], ["embedding"])],
        [onnx.helper.make_node("Nothing", ["image"], ["embedding"])],
        [onnx.helper.make_node("Add", ["embedding", "image"], ["embedding"])],
        [onnx.helper.make_node("MatMul", ["image", "matrix"], ["embedding"])],
    ))  # fmt: skip
    shape = onnx.helper.make_tensor("shape", 7, [4], [1 << 20, 3, 1 << 10, 1 << 10])
    constants = [shape, *chance.choice(([], [huge], [outside]))]
    size = chance.choice((["B", 3, 32, 32], [], ["B"], [0, 0, 0, 0], [1, 3, 1 << 30, 1 << 30]))
    image = onnx.helper.make_tensor_value_info("image", chance.choice((1, 7, 8)), size)
    found = onnx.helper.make_tensor_value_info("embedding", 1, ["B", 8])
    graph = onnx.helper.make_graph(nodes, "net", [image], [found], constants)
    opset = [onnx.helper.make_opsetid("", chance.choice((17, 999)))]
    model: bytes = onnx.helper.make_model(graph, opset_imports=opset).SerializeToString()
    return model


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
    ".pth": lambda chance: chance.choice((_pickle, _npz))(chance),
    ".tar": _tar,
    ".lst": _table,
    ".csv": _table,
    ".txt": _table,
    ".onnx": _onnx,
    ".jsonl": _json,
    ".rec": lambda chance: chance.choice(
        (b"", bytes(4096), struct.pack("<II", 0xCED7230A, 2**29 - 1), chance.randbytes(5000))
    ),
    ".idx": lambda chance: chance.choice(
        (b"", b"1\t-5\n", b"1\t99999999999999999999\n", b"x\ty\n", b"1\t0\n1\t0\n", b"\x00" * 64)
    ),
}
_NAMES = (
    "a\nb", "tab\t", "\x1b[31mred", "-rf", "$\\frac{$", "\u202e", "x" * 240, "caf\udce9", "a\rb",
    " ", "Person_0", "PERSON_1", "person_2.", ".hidden", "..x", "a,b", '"', "'", "#", "%s{}",
    "*?[a]", "~", "nan", "-1", "007", "7", "train.rec", "classes.json", "\u2028", "\x7f", "\\",
    "\u00e9", "e\u0301", "\u017f", "\ufeff", "\U0001f600",
)  # fmt: skip


FORGED = "forged"


def _forged(path: Path, chance: random.Random) -> bytes:
    """A record of ours with values of other types under a digest that fits; b"" of what is none."""
    try:
        content = json.loads(path.read_bytes())
        del content["digest"]
        content = retyped(content, chance)
        content = json.loads(json.dumps(content | {"digest": content_digest(content)}))
    except (ValueError, KeyError, TypeError):
        return b""
    return json.dumps(content).encode()


def replace(path: Path, chance: random.Random) -> str:
    """Put something hostile in a file's place; says what."""
    if chance.random() < 0.25:
        return _special(path, chance)
    if path.suffix == ".json" and chance.random() < 0.5 and (content := _forged(path, chance)):
        path.write_bytes(content)
        return FORGED
    make = _CONTENT.get(path.suffix or path.name, lambda chance: chance.randbytes(300))
    path.write_bytes(make(chance))
    return f"hostile {path.suffix or path.name}"


def rename(folder: Path, chance: random.Random) -> str:
    """Give images or people in `folder` names that break lists, move cursors or look alike."""
    told = []
    for name in chance.sample(_NAMES, chance.randint(1, 4)):
        path = chance.choice(sorted(folder.glob(chance.choice(("*", "*/*")))))
        suffix = chance.choice((path.suffix, path.suffix.upper()))
        if not path.with_name(name + suffix).exists():
            path.rename(path.with_name(name + suffix))
            told.append(name)
    return f"named {told!a}"
