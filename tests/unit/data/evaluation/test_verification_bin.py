"""InsightFace .bin files, and pickles that are something else."""

import collections
import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.evaluation.verification_bin import VerificationSet, write_bin

GOLDEN = Path(__file__).parents[3] / "golden"
SAME = [True, False, True]
IMAGES = [bytes([i, 200, 255]) * 9 for i in range(6)]


def save(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_python2_strings() -> None:
    """Written by Python 2.7: strings of every byte, which only encoding='bytes' brings back."""
    pairs = VerificationSet.open(GOLDEN / "pairs_python2.bin")
    assert pairs.same.tolist() == SAME
    wanted = [bytes((37 * i + j) % 256 for j in range(300)) for i in range(6)]
    assert [pairs.encoded(i) for i in range(6)] == wanted


def test_numpy_arrays_written_by_numpy_1() -> None:
    pairs = VerificationSet.open(GOLDEN / "pairs_numpy.bin")
    digests = json.loads((GOLDEN / "golden.json").read_text())["pairs_numpy"]
    got = {str(i): hashlib.sha256(pairs.encoded(i)).hexdigest() for i in range(6)}
    assert got == digests
    assert pairs.same.dtype == np.bool_
    assert pairs.same.tolist() == SAME
    assert pairs.decode(0, 16).shape == (16, 16, 3)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["bytes", "bytearrays", "arrays", "array of flags"])
def test_every_protocol_of_this_python_and_numpy(tmp_path: Path, protocol: int, kind: str) -> None:
    as_array = {"bytes": bytes, "bytearrays": bytearray}.get(kind, np.frombuffer)
    images = [as_array(b) if "byte" in kind else as_array(b, np.uint8) for b in IMAGES]
    same = np.array(SAME) if kind == "array of flags" else SAME
    pairs = VerificationSet.open(save(tmp_path / "a.bin", (images, same), protocol))
    assert [pairs.encoded(i) for i in range(6)] == IMAGES
    assert pairs.same.tolist() == SAME


def test_what_we_write_is_plain_and_comes_back(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", IMAGES, np.array(SAME))
    # As InsightFace reads it:
    images, same = pickle.loads((tmp_path / "a.bin").read_bytes(), encoding="bytes")
    assert images == IMAGES
    assert same == SAME
    assert VerificationSet.open(tmp_path / "a.bin").num_pairs == 3
    with pytest.raises(DataError, match="3 pairs need twice as many images, got 5"):
        write_bin(tmp_path / "b.bin", IMAGES[:5], SAME)


class Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, f"{os.name}.system"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (getattr, r"(builtins|__builtin__)\.getattr"),
        (np.load, r"numpy\.load"),
        (collections.OrderedDict, r"collections\.OrderedDict"),
    ],
)
def test_code_is_refused_by_name_and_not_run(
    tmp_path: Path, protocol: int, function: object, name: str
) -> None:
    trace = tmp_path / "executed"
    bomb = Call(function, f"touch {trace}")
    path = save(tmp_path / "evil.bin", ([bomb, *IMAGES[1:]], SAME), protocol)
    with pytest.raises(DataError, match=rf"asks for {name}; it was refused"):
        VerificationSet.open(path)
    assert not trace.exists()


def test_dotted_names_do_not_reach_through_allowed_modules(tmp_path: Path) -> None:
    # STACK_GLOBAL "numpy" "ndarray.__class__": attribute paths resolve in protocol 4.
    evil = b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93."
    (tmp_path / "evil.bin").write_bytes(evil)
    with pytest.raises(DataError, match=r"numpy\.ndarray\.__class__"):
        VerificationSet.open(tmp_path / "evil.bin")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        b"\x80\x04",
        pickle.dumps((IMAGES, SAME))[:-20],
        b"\x80\x02r\xff\xff\xff\xff.",  # memo slot 2^32 - 1: 32 GB of slots
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",  # 2^40 bytes announced
        b"\x80\x02U\x01aQ.",  # persistent id
        b"\x80\x04]\x94h\x00a0.",
    ],
)
def test_damaged_pickles_are_data_errors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.bin: must be an InsightFace \.bin"):
        VerificationSet.open(tmp_path / "a.bin")


def test_text_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    text = "x" * 10000
    encode = [Call(__import__("codecs").encode, text, "latin1") for _ in range(50)]
    path = save(tmp_path / "a.bin", (encode, [True] * 25), 2)
    assert path.stat().st_size < 20000  # the text is stored once
    with pytest.raises(DataError, match="unfolds to more than it holds"):
        VerificationSet.open(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bins": 1}, "it holds a dictionary or a set"),
        ((IMAGES, SAME, 1), "pickle of .images, same., got tuple of length 3"),
        (b"image", "pickle of .images, same., got bytes of length 5"),
        ((IMAGES, 7), "pickle of two lists, got list of length 6 and 7"),
        ((IMAGES[:5], SAME), "two images a pair, got 5 for 3 pairs"),
        (([], []), "two images a pair, got 0 for 0 pairs"),
        (([*IMAGES[:5], 3], SAME), "image 5 must be encoded bytes or a uint8 array, got 3"),
        ((IMAGES, [True, False, 2]), "pair 2 must be 1 .* got 2"),
        ((IMAGES, [True, False, "no"]), "pair 2 must be 1 .* got 'no'"),
        ((IMAGES, [True, False, IMAGES[0]]), "pair 2 must be 1 .* got bytes of length 27"),
        ((IMAGES, [True, False, 1 << 40000]), "pair 2 must be 1 .* got a int"),
        ((IMAGES, [True, False, np.array([0, 1])]), "pair 2 must be 1 .* got an array of i8"),
        ((IMAGES, np.array([0.0, 1.0, 0.5])), "pair 2 must be 1 .* got 0.5"),
        ((IMAGES, np.array([0, 1, -1])), "pair 2 must be 1 .* got -1"),
        ((IMAGES, np.array([0j, 1j, 0j])), "two lists, got list of length 6 and an array of c16"),
        (([np.zeros(3, np.float64)] * 6, SAME), "image 0 must be encoded .* got an array of f8"),
        (([np.array([None])] * 6, SAME), "image 0 must be encoded bytes"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        VerificationSet.open(save(tmp_path / "a.bin", content))
    assert "0x" not in str(error.value)
    assert "a.bin" in str(error.value)


@pytest.mark.parametrize("dtype", ["bool", "i1", "u1", "<i2", ">i4", "<i8", ">u8", "f4", "f8"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_flags_of_any_type_of_zero_and_one(tmp_path: Path, dtype: str, protocol: int) -> None:
    array = np.array(SAME).astype(dtype)
    for same in (array, list(array), array[:, None], array.astype(object), array.tolist()):
        path = save(tmp_path / "a.bin", (IMAGES, same), protocol)
        assert VerificationSet.open(path).same.tolist() == SAME


def nested(leaf: object, levels: int) -> object:
    """Two references to one thing, two references to that, ...: 2^levels leaves in few bytes."""
    for _ in range(levels):
        leaf = [leaf, leaf]
    return leaf


def test_lists_within_lists_end_in_a_message(tmp_path: Path) -> None:
    """Their repr would have more characters than there are atoms."""
    endless = nested(b"x", 60)
    for content in (endless, ([endless] * 6, SAME), (IMAGES, [True, False, endless])):
        path = save(tmp_path / "a.bin", content)
        assert path.stat().st_size < 2000
        with pytest.raises(DataError, match=r"a\.bin.* got (list of length 2|2 for 2 pairs)"):
            VerificationSet.open(path)
    # A key made of tuples within tuples: its hash takes 2^60 steps.
    opcodes = b"\x80\x04}K\x01" + b"\x940h\x00h\x00\x86" * 60 + b"K\x01s."
    (tmp_path / "a.bin").write_bytes(opcodes)
    with pytest.raises(DataError, match="it holds a dictionary or a set"):
        VerificationSet.open(tmp_path / "a.bin")


def test_missing_file_and_bad_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        VerificationSet.open(tmp_path / "a.bin")
    write_bin(tmp_path / "a.bin", IMAGES, SAME)
    with pytest.raises(DataError, match=r"a\.bin: image 4: .*do not decode"):
        VerificationSet.open(tmp_path / "a.bin").decode(4, 8)


def test_real_pairs(lfw: Path) -> None:
    pairs = VerificationSet.open(lfw / "val.bin")
    assert pairs.num_pairs == 1200
    # 10 folds of 60 same, then 60 different.
    assert pairs.same.reshape(10, 2, 60).all(axis=2).tolist() == [[True, False]] * 10
    assert pairs.decode(2399, 112).shape == (112, 112, 3)
