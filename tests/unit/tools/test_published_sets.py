"""CIFAR, MNIST and UTKFace as their authors publish them, read, and run to a paper's table."""

import gzip
import json
import pickle
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.images.codec import encode_jpeg
from tools.benchmarks.robust import images, networks
from tools.reproduce import l2b, nal, superloss


def write_cifar(folder: Path, num_classes: int) -> None:
    """Files as the authors have them: protocol 2, names as bytes."""
    generator = np.random.default_rng(0)
    label = np.arange(40 if num_classes == 10 else 300) % num_classes

    def write(name: str, key: bytes) -> None:
        data = generator.integers(0, 256, (len(label), 3072)).astype(np.uint8)
        content = {b"data": data, key: label.tolist(), b"coarse_labels": (label // 5).tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))

    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for name in names if num_classes == 10 else ("train", "test"):
        write(name, b"labels" if num_classes == 10 else b"fine_labels")


def test_cifar_is_read_as_written(tmp_path: Path) -> None:
    write_cifar(tmp_path, 100)
    pool = images.read_cifar(tmp_path, 100)
    assert pool.x.shape == (600, 3, 32, 32)
    assert pool.test.tolist() == [False] * 300 + [True] * 300
    assert pool.label.tolist() == [*(np.arange(300) % 100), *(np.arange(300) % 100)]
    assert np.abs(pool.x[:300].mean((0, 2, 3))).max() < 1e-4
    assert np.abs(pool.x[:300].std((0, 2, 3)) - 1).max() < 1e-3
    raw = pickle.loads((tmp_path / "train").read_bytes())[b"data"][7]
    image = pool.x[7].reshape(-1)
    assert np.corrcoef(raw[:1024], image[:1024])[0, 1] > 0.9999
    # 0 to 4 are a superclass here, and so on.
    assert [pool.confusions[one] for one in (0, 3, 4, 5, 99)] == [1, 4, 0, 6, 95]


def test_a_cifar_file_that_is_a_program_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "was_run",))

    write_cifar(tmp_path, 10)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Harmful()}))
    with pytest.raises(DataError, match="it was refused and nothing was run"):
        images.read_cifar(tmp_path, 10)
    assert not (tmp_path / "was_run").exists()
    turned = {b"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), b"labels": [0, 1]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(turned, protocol=2))
    with pytest.raises(DataError, match="row by row"):
        images.read_cifar(tmp_path, 10)
    (tmp_path / "test_batch").write_bytes(b"not a pickle")
    with pytest.raises(DataError, match="Python version"):
        images.read_cifar(tmp_path, 10)
    (tmp_path / "test_batch").unlink()
    with pytest.raises(DataError, match=r"test_batch is missing.*www\.cs\.toronto\.edu"):
        images.read_cifar(tmp_path, 10)


def write_mnist(folder: Path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 28, 28)).astype(np.uint8)
    label = (np.arange(80) % 10).astype(np.uint8)
    for name, pack in (("train", True), ("t10k", False)):
        for kind, values in (("images-idx3", pixels), ("labels-idx1", label)):
            header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
            content = header + values.tobytes()
            path = folder / f"{name}-{kind}-ubyte{'.gz' if pack else ''}"
            path.write_bytes(gzip.compress(content) if pack else content)
    return pixels


def test_mnist_is_read_as_written(tmp_path: Path) -> None:
    pixels = write_mnist(tmp_path)
    pool = images.read_mnist(tmp_path)
    assert np.array_equal(pool.x[:80, 0], pixels.astype(np.float32) / 255)
    assert np.array_equal(pool.x[80:], pool.x[:80])
    assert pool.label.tolist() == list(range(10)) * 16
    assert pool.test.sum() == 80
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x50" + bytes(79))
    with pytest.raises(DataError, match=r"must hold \(80,\) bytes, holds 79"):
        images.read_mnist(tmp_path)


@pytest.mark.parametrize(
    ("tool", "num_classes", "rows"),
    [
        (superloss, 10, ["plain", "superloss"]),
        (nal, 100, ["plain", "nal", "nal + targets"]),
        (l2b, 100, ["plain", "plain + trusted", "l2rw", "l2b"]),
    ],
)
def test_a_tool_runs_to_its_table_on_cifar(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tool: ModuleType,
    num_classes: int,
    rows: list[str],
) -> None:
    write_cifar(tmp_path, num_classes)
    arguments = f"--dataset cifar{num_classes} --data {tmp_path} --network tiny --epochs 1"
    arguments += f" --seeds 0 --rates 0.4 --json {tmp_path / 'found.json'}"
    tool.main(arguments.split())
    printed = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    table = printed[printed.index("accuracy %") :]
    assert table[2:] == rows
    found = json.loads((tmp_path / "found.json").read_text())
    noise = "symmetric" if tool is superloss else "any"  # as each paper's authors
    assert set(found) == {f"{method}, {noise} 0.4" for method in rows}


def test_regression_runs_to_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mnist(tmp_path)
    arguments = f"--dataset mnist --data {tmp_path} --epochs 1 --seeds 0 1 --rates 0.4"
    superloss.main(arguments.split())
    table = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()][-4:]
    assert table == [f"{a}, {b}" for a in ("l2", "smooth_l1") for b in ("plain", "superloss")]


def test_ages_are_read_from_names_and_run_to_their_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for age in range(30):
        image = np.full((80, 80, 3), 8 * age, np.uint8) + generator.integers(0, 8, (80, 80, 3))
        name = f"{age}_1_0_2017{age:04d}.jpg.chip.jpg"
        (tmp_path / name).write_bytes(encode_jpeg(image.astype(np.uint8)))
    (tmp_path / "no_age.jpg").write_bytes(b"")
    pool = images.read_utkface(tmp_path)
    assert sorted(pool.label.tolist()) == list(range(30))
    assert pool.test.sum() == 6
    grey = pool.x.mean((1, 2, 3))
    assert np.corrcoef(grey, pool.label)[0, 1] > 0.99
    assert pool.x.shape == (30, 3, 64, 64)
    tiny = networks.residual_network("tiny")
    monkeypatch.setattr(superloss, "residual_network", lambda name: tiny)
    monkeypatch.setattr(superloss, "BATCH", 8)
    arguments = f"--dataset utkface --data {tmp_path} --epochs 1 --seeds 0 --rates 0.4 --losses l2"
    superloss.main(arguments.split())
    table = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()][-2:]
    assert table == ["l2, plain", "l2, superloss"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds 0 faces with an age.*susanqq"):
        images.read_utkface(tmp_path / "empty")


def test_without_a_folder_the_tool_says_where_the_data_is() -> None:
    with pytest.raises(DataError, match="--data must name the folder in cifar-10-python"):
        nal.main(["--dataset", "cifar10"])
