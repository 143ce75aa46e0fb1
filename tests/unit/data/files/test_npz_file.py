"""Sizes are looked at before anything is unpacked."""

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.features import load_features
from facetrain.data.files import npz_file
from facetrain.data.files.npz_file import read_npz
from facetrain.data.overlay import LabelOverlay

ROWS = 8_000_000  # of zeros: 61 MiB from 62 KiB, a thousandth of what is refused by itself


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    path = tmp_path / "bomb.npz"
    label = np.zeros(ROWS, np.int64)
    small = {"embedding": np.ones((3, 2), np.float32), "kept": np.ones(3, np.bool_)}
    np.savez_compressed(path, label=label, **small)  # type: ignore[arg-type]
    return path


def test_a_small_file_does_not_eat_the_machine(bomb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_file, "_SMALL", 1 << 20)
    assert bomb.stat().st_size < 1 << 17
    tracemalloc.start()
    try:
        for read in (load_features, LabelOverlay.load):
            with pytest.raises(DataError, match=r"unpacks to 0\.1 GiB, over 64 times its size"):
                read(bomb)
        with pytest.raises(DataError, match=f"3 images of the data set, but has {ROWS} rows"):
            LabelOverlay.load(bomb, 3)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # not the array's 64 MB
    finally:
        tracemalloc.stop()
    monkeypatch.undo()
    assert len(read_npz(bomb, "arrays")["label"]) == ROWS  # below 1 GiB nothing is refused


def test_text_and_further_arrays_of_an_overlay_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "overlay.npz"
    label, kept = np.zeros(3, np.int64), np.ones(3, np.bool_)
    np.savez_compressed(path, label=label, kept=kept, dataset_fingerprint=np.array("a" * 300_000))
    with pytest.raises(DataError, match="dataset_fingerprint must be short text"):
        LabelOverlay.load(path, 3)
    np.savez_compressed(path, label=label, kept=kept, more=np.zeros((3, 9)))
    with pytest.raises(DataError, match=r"but has more of \(3, 9\)"):
        LabelOverlay.load(path, 3)
    np.savez_compressed(path, label=label, kept=kept)
    assert LabelOverlay.load(path, 3).kept.all()


def test_a_large_overlay_that_says_nothing_is_no_bomb(tmp_path: Path) -> None:
    # A million rows of nothing: 39 MB from 0.1 MB, as that of a large set may be.
    num = 1_000_000
    overlay = LabelOverlay.make(np.full(num, -1), np.ones(num, np.bool_))
    overlay.save(tmp_path / "overlay.npz")
    assert (tmp_path / "overlay.npz").stat().st_size < 1 << 18
    assert len(LabelOverlay.load(tmp_path / "overlay.npz", num).label) == num


def test_a_header_that_its_bytes_do_not_fill_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, embedding=np.ones((4, 2), np.float32), label=np.arange(4))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(4, 2)", b"(9, 2)"))
    with pytest.raises(DataError, match=r"array embedding: .*(9, 2)|array embedding: .*CRC"):
        load_features(path)
    with pytest.raises(DataError, match="array embedding"):
        read_npz(path, "arrays")


def test_arrays_of_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, embedding=np.array([{}, None]), label=np.arange(2))
    with pytest.raises(DataError, match="array embedding: Object arrays cannot be loaded"):
        read_npz(path, "arrays")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["label.npy", "label"])
def test_an_array_that_comes_twice_is_neither(tmp_path: Path, name: str) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, embedding=np.ones((4, 2), np.float32), label=np.arange(4))
    np.save(tmp_path / "other.npy", np.arange(4)[::-1])
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(tmp_path / "other.npy", name)
    with pytest.raises(DataError, match="array label: must be in the file once"):
        read_npz(path, "arrays")


def test_the_order_in_memory_changes_nothing(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    np.savez(tmp_path / "f.npz", one=rows, other=np.asfortranarray(rows), alone=np.float32(1))
    found = read_npz(tmp_path / "f.npz", "arrays")
    assert found["other"].flags.c_contiguous
    assert np.linalg.norm(found["one"], axis=1).tolist() == np.linalg.norm(
        found["other"], axis=1
    ).tolist()  # fmt: skip
    assert found["alone"].shape == ()
