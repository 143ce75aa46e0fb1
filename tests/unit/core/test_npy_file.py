import random
import sys
from pathlib import Path

import numpy as np
import pytest

from facetrain.core.errors import DataError, OutputError
from facetrain.core.npy_file import read_npy, write_npy


def test_it_is_what_numpy_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (np.arange(6, dtype=np.int64).reshape(2, 3), np.zeros((4, 0), np.float32)):
        np.save(path, array)
        found = read_npy(path, "numbers", (None, array.shape[1]), (np.float32, np.int64))
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
        assert not found.flags.writeable


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize("size", [300, 3000])  # bytes / 8: within the last 4 KiB, and beyond
def test_a_full_disk_is_heard_of(tmp_path: Path, size: int) -> None:
    """Of 300 numbers `numpy.save` left 1,000 bytes, without a word."""
    import resource

    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.npy: must be writable, but File too large"):
            write_npy(tmp_path / "a.npy", np.arange(float(size)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_what_numpy_writes(tmp_path: Path) -> None:
    for array in (np.arange(6).reshape(2, 3), np.ones((3, 2), np.float32, order="F"), np.array(2)):
        write_npy(tmp_path / "ours.npy", array)
        np.save(tmp_path / "numpys.npy", array)
        assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ((2, 4), np.int64, r"int64 of shape \(2, 4\), but is int64 of shape \(2, 3\)"),
        ((None,), np.int64, r"int64 of shape \(any\), but is int64 of shape \(2, 3\)"),
        ((2, 3), (np.float16, np.float32), r"float16 or float32 of shape \(2, 3\), but is int64"),
    ],
)
def test_another_shape_or_type_is_told(tmp_path: Path, shape, dtype, text) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6).reshape(2, 3))
    with pytest.raises(DataError, match=text):
        read_npy(path, "numbers", shape, dtype)


def test_damage_of_any_kind_is_a_data_error(tmp_path: Path) -> None:
    """Also the empty file (NumPy: EOFError, which click takes for Ctrl-C), pickles, archives."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(1000, dtype=np.float32).reshape(10, 100))
    good = path.read_bytes()
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", a=np.zeros(3))
    bad = [b"", good[:1], good[:70], good[:-1], objects.read_bytes()]
    bad.append((tmp_path / "archive.npz").read_bytes())
    bad.append(good.replace(b"(10, 100)", b"(99999999999, 100)"))
    bad.append(good.replace(b"(10, 100)", b"(-1, 100)"))
    bad.append(good.replace(b"<f4", b"<f8"))
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npy: must be numbers"):
            read_npy(path, "numbers", (None, 100), np.float32)
    chance = random.Random(0)
    for _ in range(300):  # the header alone
        content = bytearray(good)
        content[chance.randrange(128)] = chance.randrange(256)
        path.write_bytes(content)
        try:
            array = read_npy(path, "numbers", (10, 100), np.float32)
        except DataError:
            continue
        assert array.shape == (10, 100)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.npy"):
        with pytest.raises(DataError, match="there is no such file; embed again"):
            read_npy(path, "numbers", (None,), np.float32, advice="embed again")
