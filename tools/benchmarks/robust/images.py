"""MNIST, CIFAR and UTKFace as their authors publish them, from a user's own download.

CIFAR's files are pickles; nothing in them is run.
"""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.errors import DataError
from facetrain.core.rng import numpy_generator
from facetrain.data.files.plain_pickle import load_plain
from facetrain.data.images.codec import decode_image, fit_square
from tools.benchmarks.robust.tasks import Labels, Pool

WHERE = {
    "mnist": "the four files of https://yann.lecun.com/exdb/mnist, packed or not",
    "cifar10": "the folder in cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "the folder in cifar-100-python.tar.gz of that page, "
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "utkface": "the aligned and cropped faces of https://susanqq.github.io/UTKFace, "
    "[age]_[gender]_[race]_[date].jpg.chip.jpg",
}
_AGE_SIZE, _TEST_EVERY = 64, 5
_CIFAR10_CONFUSIONS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
"""truck > automobile, bird > airplane, deer > horse, cat <> dog (NAL, B.2 of its appendix)."""


def read_mnist(folder: Path) -> Pool:
    """70,000 digits, (N, 1, 28, 28) in [0, 1]; the last 10,000 are the test.

    Raises:
        DataError: a file is missing or is not what its name says.
    """
    parts = []
    for name in ("train", "t10k"):
        x = _idx(folder, f"{name}-images-idx3-ubyte", 3)
        label = _idx(folder, f"{name}-labels-idx1-ubyte", 1)
        parts.append((x[:, None].astype(np.float32) / np.float32(255), label.astype(np.int64)))
    return _pool(folder, parts, {2: 7, 3: 8, 5: 6, 6: 5, 7: 1})


def read_cifar(folder: Path, num_classes: int) -> Pool:
    """60,000 images, (N, 3, 32, 32), each channel with mean 0 and variance 1 over training images.

    The classes of CIFAR-100 are taken for the next one of their superclass, circularly (NAL, B.2).

    Args:
        folder: with data_batch_1 ... test_batch, or with train and test.
        num_classes: 10 or 100.

    Raises:
        DataError: a file is missing, or holds anything else than images and labels.
    """
    if num_classes == 10:
        train = [_cifar_file(folder / f"data_batch_{number}", b"labels") for number in range(1, 6)]
        test = _cifar_file(folder / "test_batch", b"labels")
        confusions = _CIFAR10_CONFUSIONS
    else:
        train = [_cifar_file(folder / "train", b"fine_labels")]
        test = _cifar_file(folder / "test", b"fine_labels")
        confusions = _next_in_superclass(
            train[0][1], _cifar_file(folder / "train", b"coarse_labels")[1]
        )
    x, label = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    mean, spread = x.mean((0, 2, 3), keepdims=True), x.std((0, 2, 3), keepdims=True)
    spread = np.maximum(spread, 1e-3)
    parts = [((x - mean) / spread, label), ((test[0] - mean) / spread, test[1])]
    return _pool(folder, parts, confusions)


def read_utkface(folder: Path) -> Pool:
    """Faces with their ages as labels, (N, 3, 64, 64) in [-1, 1]; a fifth, by name, is the test.

    Raises:
        DataError: no file of such a name, or one that is no image.
    """
    paths = sorted(path for path in folder.glob("*.jpg") if path.name.split("_")[0].isdigit())
    if len(paths) < _TEST_EVERY:
        raise DataError(
            f"{folder} holds {len(paths)} faces with an age; it must hold {WHERE['utkface']}"
        )
    x = np.empty((len(paths), 3, _AGE_SIZE, _AGE_SIZE), np.float32)
    for row, path in enumerate(paths):
        image = fit_square(decode_image(path.read_bytes(), str(path)), _AGE_SIZE)
        x[row] = image.transpose(2, 0, 1) / 127.5 - 1
    label = np.array([int(path.name.split("_")[0]) for path in paths], np.int64)
    order = numpy_generator(0, "utkface", "test").permutation(len(paths))
    test = np.zeros(len(paths), np.bool_)
    test[order[::_TEST_EVERY]] = True
    return Pool(x, label, test, {})


def crop_and_flip(x: Tensor) -> Tensor:
    """Images moved by up to four pixels, black where nothing was, half of them mirrored.

    Args:
        x: (B, 3, H, W).
    """
    batch, _, height, width = x.shape
    device = x.device
    padded = F.pad(x, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, batch, 1), device=device)  # (B, 1)
    down = top + torch.arange(height, device=device)  # (B, H)
    across = left + torch.arange(width, device=device)  # (B, W)
    mirrored = torch.rand(batch, 1, device=device) < 0.5
    across = torch.where(mirrored, across.flip(1), across)
    sample = torch.arange(batch, device=device)[:, None, None]
    return padded[sample, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def _pool(
    folder: Path, parts: list[tuple[NDArray[Any], Labels]], confusions: dict[int, int]
) -> Pool:
    """Training and test images in one."""
    if any(len(x) != len(label) or not len(x) for x, label in parts):
        raise DataError(f"{folder}: must hold as many labels as images, and some of each")
    (x, label), (test_x, test_label) = parts
    test = np.arange(len(x) + len(test_x)) >= len(x)
    images = np.concatenate([x, test_x]).astype(np.float32)
    return Pool(images, np.concatenate([label, test_label]), test, confusions)


def _next_in_superclass(fine: Labels, coarse: Labels) -> dict[int, int]:
    """Of each class the next one of its superclass."""
    confusions: dict[int, int] = {}
    for one in np.unique(coarse):
        classes = np.unique(fine[coarse == one]).tolist()
        confusions.update(zip(classes, [*classes[1:], classes[0]], strict=True))
    return confusions


def _idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of bytes."""
    path = folder / name
    packed = folder / f"{name}.gz"
    if packed.is_file():
        content = gzip.decompress(packed.read_bytes())
    elif path.is_file():
        content = path.read_bytes()
    else:
        raise DataError(f"{path}[.gz] is missing; {folder} must hold {WHERE['mnist']}")
    header = 4 + 4 * dimensions
    if len(content) < header or struct.unpack(">I", content[:4])[0] != 0x0800 + dimensions:
        raise DataError(f"{path}: must be an IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != int(np.prod(shape)):
        raise DataError(f"{path}: must hold {shape} bytes, holds {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _cifar_file(path: Path, key: bytes) -> tuple[NDArray[np.float32], Labels]:
    """Images in [0, 1] and labels of one file."""
    if not path.is_file():
        kind = "cifar100" if b"e_labels" in key else "cifar10"
        raise DataError(f"{path} is missing; {path.parent} must hold {WHERE[kind]}")
    must = f"{path}: must be a file of CIFAR's Python version"
    try:
        content = load_plain(path.read_bytes(), must, mappings=True)
        images = content[b"data"]
        if images.by_columns or (pixels := images.tobytes()) is None:
            raise ValueError("its images are not plain bytes, row by row")
        x, label = np.frombuffer(pixels, np.uint8), np.array(content[key], np.int64)
        return x.reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255), label
    except DataError:
        raise
    except Exception as error:  # whatever else the file may hold
        raise DataError(f"{must}; {error}") from None
