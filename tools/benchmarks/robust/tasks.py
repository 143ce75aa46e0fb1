"""Tasks with planted label noise: what the tools for the robust methods train and test on.

The test images are the same for every seed, so nothing that is tuned on other seeds has seen them.
A seed draws which of the rest are for training, for validation (noisy, as the papers have it) and
trusted (clean, read by L2B alone), and the noise.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.errors import DataError
from facetrain.core.rng import numpy_generator
from facetrain.data.features import load_features, unit_rows

Labels = NDArray[np.int64]
Noise = Literal["symmetric", "any", "asymmetric"]

_DIGIT_CONFUSIONS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
"""Digits that look alike (Patrini et al., CVPR 2017, for MNIST)."""
_NUM_TEST_DIGITS, _NUM_TEST_FACES, _LEAST_FACES = 500, 3, 10


@dataclass(frozen=True)
class Pool:
    """Clean images, of which `test` are held out, and which class is taken for which other."""

    x: NDArray[np.float32]  # (N, ...)
    label: Labels  # (N,)
    test: NDArray[np.bool_]  # (N,)
    confusions: dict[int, int]

    @property
    def num_classes(self) -> int:
        """Labels are 0 to this, less one."""
        return int(self.label.max()) + 1


@dataclass(frozen=True)
class Task:
    """What one run reads; all on one device."""

    x: Tensor  # (N, ...)
    label: Tensor  # (N,) as given, with noise
    true_label: Tensor  # (N,)
    validation_x: Tensor
    validation_label: Tensor  # with noise
    test_x: Tensor
    test_label: Tensor
    trusted_x: Tensor
    trusted_label: Tensor
    num_classes: int

    @property
    def is_clean(self) -> NDArray[np.bool_]:
        """(N,) where the given label is true."""
        return (self.label == self.true_label).cpu().numpy()

    def with_trusted(self) -> "Task":
        """The same with the trusted images among the others: what L2B knows, without L2B."""
        label = torch.cat([self.label, self.trusted_label])
        true_label = torch.cat([self.true_label, self.trusted_label])
        x = torch.cat([self.x, self.trusted_x])
        return replace(self, x=x, label=label, true_label=true_label)

    def only_trusted(self) -> "Task":
        """The trusted images and no others, so often that an epoch is as long as before."""
        rows = torch.arange(len(self.x), device=self.x.device) % len(self.trusted_x)
        label = self.trusted_label[rows]
        return replace(self, x=self.trusted_x[rows], label=label, true_label=label)


def digits() -> Pool:
    """The 1,797 digits of 8x8 pixels that come with scikit-learn, (N, 64) in [0, 1]."""
    from sklearn.datasets import load_digits

    content = load_digits()
    x, label = (content.data / 16).astype(np.float32), content.target.astype(np.int64)
    test = np.zeros(len(x), np.bool_)
    test[numpy_generator(0, "digits", "test").permutation(len(x))[:_NUM_TEST_DIGITS]] = True
    return Pool(x, label, test, _DIGIT_CONFUSIONS)


def faces(path: Path) -> Pool:
    """Embeddings of the identities with ten images or more; three of each are for the test.

    Args:
        path: features `.npz` with `embedding` and `label`.

    Raises:
        DataError: as `load_features`, or no identity has so many images.
    """
    features = load_features(path)
    size = np.bincount(features.label)
    rows = np.flatnonzero(size[features.label] >= _LEAST_FACES)
    if not len(rows):
        raise DataError(f"{path}: must hold an identity with {_LEAST_FACES} images, has none")
    label = np.unique(features.label[rows], return_inverse=True)[1].astype(np.int64)
    test = _some_of_each(label, _NUM_TEST_FACES, numpy_generator(0, "faces", "test"))
    # Without the mean (under dlib's embedding strangers have a cosine of 0.85), entries of about 1.
    embedding = unit_rows(features.embedding[rows]).astype(np.float32)
    embedding = unit_rows(embedding - embedding[~test].mean(0)) * embedding.shape[1] ** 0.5
    # Only the next identity: nobody knows who looks like whom.
    num_classes = int(label.max()) + 1
    confusions = {one: (one + 1) % num_classes for one in range(num_classes)}
    return Pool(embedding, label, test, confusions)


def make_task(
    pool: Pool,
    noise: Noise,
    rate: float,
    seed: int,
    *,
    num_trusted: int,
    validation: float,
    device: torch.device | str = "cpu",
) -> Task:
    """Split what is not for the test, and plant noise in what is neither trusted.

    Args:
        seed: of the split and the noise; the split is the same at every rate and for every noise.
        num_trusted: of each class.
        validation: share of what is left after the trusted ones.
    """
    rest = np.flatnonzero(~pool.test)
    generator = numpy_generator(seed, "split")
    trusted = _some_of_each(pool.label[rest], num_trusted, generator)
    others = generator.permutation(rest[~trusted])
    num_validation = round(validation * len(others))
    label = pool.label.copy()
    # In the order of `others`, so the first of them are noisy and the others too.
    label[others] = noisy_labels(
        pool.label[others], noise, rate, pool, numpy_generator(seed, "noise", noise)
    )

    def images(rows: Labels) -> Tensor:
        return torch.from_numpy(pool.x[rows]).to(device)

    def labels(values: Labels) -> Tensor:
        return torch.from_numpy(values).to(device)

    held, train, test = others[:num_validation], others[num_validation:], np.flatnonzero(pool.test)
    return Task(
        x=images(train),
        label=labels(label[train]),
        true_label=labels(pool.label[train]),
        validation_x=images(held),
        validation_label=labels(label[held]),
        test_x=images(test),
        test_label=labels(pool.label[test]),
        trusted_x=images(rest[trusted]),
        trusted_label=labels(pool.label[rest[trusted]]),
        num_classes=pool.num_classes,
    )


def noisy_labels(
    label: Labels, noise: Noise, rate: float, pool: Pool, generator: np.random.Generator
) -> Labels:
    """Labels of which `rate` are drawn anew, (N,).

    symmetric: another class, uniformly (SuperLoss's Table 3). any: any class, the true one too
    (its Table 4). asymmetric: the class it is taken for; a class that is taken for none stays
    clean, so the noise over all is less than `rate`.

    Args:
        label: (N,) true.
        generator: its order of draws does not depend on the rate: what is wrong at 20 % is wrong
            at 40 % too, and in the same way.
    """
    order = generator.permutation(len(label))
    drawn = generator.integers(1, pool.num_classes, len(label))
    anything = generator.integers(0, pool.num_classes, len(label))
    chosen = order[: round(rate * len(label))]
    noisy = label.copy()
    if noise == "symmetric":
        noisy[chosen] = (label[chosen] + drawn[chosen]) % pool.num_classes
    elif noise == "any":
        noisy[chosen] = anything[chosen]
    else:
        taken_for = np.arange(pool.num_classes)
        taken_for[list(pool.confusions)] = list(pool.confusions.values())
        noisy[chosen] = taken_for[label[chosen]]
    return noisy


def _some_of_each(label: Labels, count: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(N,) True for `count` images of each class."""
    order = generator.permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    place = np.arange(len(order)) - np.searchsorted(label[order], label[order])
    chosen = np.zeros(len(label), np.bool_)
    chosen[order[place < count]] = True
    return chosen
