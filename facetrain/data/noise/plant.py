"""Label noise with known truth, planted into clean labels.

Seen from the class in which it arrives, as a cleaner sees it: every class has a noise rate of its
own, and the rates' mean is set so that the share of noise over all images is what was asked.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from facetrain.core.config import Config
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.rng import numpy_generator
from facetrain.data.noise.per_class import noise_per_class
from facetrain.data.noise.structured import least_own, most_noise, plan_transfers

NOISE_KINDS = ("clean", "flip", "outlier", "structured")
CLEAN, FLIP, OUTLIER, STRUCTURED = range(4)
_LESS = 0.6


class NoiseConfig(Config):
    """Noise of each kind, as a share of all images."""

    flip: float = Field(0.0, ge=0, lt=1)
    """Closed-set noise: images of other identities of the set, many different ones in a class."""
    outlier: float = Field(0.0, ge=0, lt=1)
    """Open-set noise: images of identities that are held out, the smallest first."""
    structured: float = Field(0.0, ge=0, lt=1)
    """Closed-set noise where one or two other identities supply all of a class's noise."""
    shuffle: bool = False
    """Shuffle all labels instead; identities keep their number of images. What still learns to
    verify on such labels learned nothing from the labels: the control of a training."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _leave_something_clean(self) -> "NoiseConfig":
        total = self.flip + self.outlier + self.structured
        if total >= 1:
            raise ValueError(f"flip, outlier and structured must sum to less than 1, got {total:g}")
        if self.shuffle and total > 0:
            raise ValueError("shuffle leaves no label to plant other noise into; give it alone")
        return self


@dataclasses.dataclass(frozen=True)
class PlantedNoise:
    """Noisy labels and the truth about them, row by row as the labels came."""

    label: NDArray[np.int64]  # (N,) what the data set shall claim
    true_label: NDArray[np.int64]  # (N,) as they came
    is_clean: NDArray[np.bool_]  # (N,) label == true_label
    kept: NDArray[np.bool_]  # (N,) False for the few surplus images of a held-out identity
    kind: NDArray[np.uint8]  # (N,) index into NOISE_KINDS

    def counts(self) -> dict[str, int]:
        """Kept images of each kind, by the names in NOISE_KINDS."""
        count = np.bincount(self.kind[self.kept], minlength=len(NOISE_KINDS))
        return dict(zip(NOISE_KINDS, count.tolist(), strict=True))


class _UnreachableError(Exception):
    """The classes cannot bear the noise of this kind."""


def plant(
    label: NDArray[np.integer],
    config: NoiseConfig,
) -> PlantedNoise:
    """Plant exactly round(rate * number of images) noisy labels of each kind.

    Outliers: whole identities are held out, the smallest first and at random among equals, and all
    their images are given to the remaining classes; of the last identity only as many as are
    asked for, the rest is `kept=False`. Structured noise: see `structured_noise.plan_transfers`.
    Flips leave at random. Every remaining identity keeps a clean image, so that in the truth an
    outlier's identity never has a clean image and a flip's always does.

    Flips and outliers arrive in proportion to class size times the class's own rate; in classes
    of one image only where no other class can take them. A class with structured noise has at
    most 48 % noise of all kinds. The cost is that of sorting N labels, (N,) of clean images.

    Raises:
        DataError: no image.
        ConfigError: these classes cannot bear the noise; names a rate they can.
    """
    try:
        return _plant_among(label, config, np.ones(len(label), np.bool_))
    except _UnreachableError as error:
        class_ids, identity = np.unique(label, return_inverse=True)
        raise _advice(str(error), identity, len(class_ids), config) from None


def plant_at_most(
    label: NDArray[np.integer], config: NoiseConfig, eligible: NDArray[np.bool_]
) -> PlantedNoise:
    """`plant`, at 1, 0.6, 0.36, ... of these rates: the first that the classes bear.

    Args:
        eligible: (N,) rows that take part, and of which the rates are shares. The others keep
            their label, count as clean, and neither give nor receive.
    """
    rates = config.model_dump(include={"flip", "outlier", "structured"})
    while True:
        try:
            return _plant_among(label, NoiseConfig(**rates, seed=config.seed), eligible)
        except _UnreachableError:
            rates = {kind: rate * _LESS if rate > 0.02 else 0.0 for kind, rate in rates.items()}


def _plant_among(
    label: NDArray[np.integer], config: NoiseConfig, eligible: NDArray[np.bool_]
) -> PlantedNoise:
    """`plant` among these rows."""
    rows = np.flatnonzero(eligible)
    if len(rows) == 0:
        raise DataError("planting noise needs at least one image, got none")
    if config.shuffle:
        return _shuffled(label.astype(np.int64), rows, config.seed)
    class_ids, identity = np.unique(label[rows], return_inverse=True)
    destination, kind, kept = _plant(identity.astype(np.int64), len(class_ids), config)
    noisy, all_kept = label.astype(np.int64), np.ones(len(label), np.bool_)
    all_kinds = np.zeros(len(label), np.uint8)
    noisy[rows], all_kept[rows], all_kinds[rows] = class_ids[destination], kept, kind
    true_label = label.astype(np.int64)
    return PlantedNoise(noisy, true_label, noisy == true_label, all_kept, all_kinds)


def _shuffled(label: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> PlantedNoise:
    noisy = label.copy()
    noisy[rows] = numpy_generator(seed, "shuffled labels").permutation(label[rows])
    is_clean = noisy == label
    kind = np.where(is_clean, CLEAN, FLIP).astype(np.uint8)
    return PlantedNoise(noisy, label, is_clean, np.ones(len(label), np.bool_), kind)


def _plant(
    identity: NDArray[np.int64], num_classes: int, config: NoiseConfig
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_]]:
    """Class (N,), kind (N,) and kept (N,) of images whose identities are 0..num_classes-1."""
    num_images = len(identity)
    size = np.bincount(identity, minlength=num_classes)
    rank = _random_rank(identity, size, numpy_generator(config.seed, "noise", "rank"))
    destination, kind = identity.copy(), np.zeros(num_images, np.uint8)
    num_flips = round(config.flip * num_images)

    held_out, surplus = _held_out(size, round(config.outlier * num_images), config)
    kept = rank >= surplus[identity]
    outliers = np.flatnonzero(held_out[identity] & kept)
    kind[outliers] = OUTLIER
    size = np.where(held_out, 0, size)

    num_structured = round(config.structured * num_images)
    generator = numpy_generator(config.seed, "noise", "structured")
    transfers = plan_transfers(num_structured, config.structured, size, generator)
    if transfers.count.sum() < num_structured:
        raise _UnreachableError("structured")
    gone = np.bincount(transfers.donor, transfers.count, num_classes).astype(np.int64)
    noise = np.bincount(transfers.receiver, transfers.count, num_classes).astype(np.int64)
    leaving = np.flatnonzero((rank < gone[identity]) & ~held_out[identity])
    leaving = leaving[np.argsort(identity[leaving], kind="stable")]
    destination[leaving] = np.repeat(transfers.receiver, transfers.count)  # sorted by donor too
    kind[leaving] = STRUCTURED

    generator = numpy_generator(config.seed, "noise", "flip")
    last = np.where(held_out, 0, size - least_own(noise))  # from this rank on all stay
    movable = np.flatnonzero((rank >= gone[identity]) & (rank < last[identity]))
    if len(movable) < num_flips:
        raise _UnreachableError("flip")
    flips = generator.permutation(movable)[:num_flips]
    kind[flips] = FLIP
    flipped = np.bincount(identity[flips], minlength=num_classes)
    size = size - gone
    own = size - flipped
    # A class takes no more flips than others send, or some would come home.
    count = _receivers("flip", num_flips, config, size, own, noise, num_flips - flipped)
    destination[flips] = _scatter(identity[flips], count, generator)

    generator = numpy_generator(config.seed, "noise", "outlier")
    sent = np.full(num_classes, len(outliers))
    taken = np.where(noise > 0, count, 0)
    count = _receivers("outlier", len(outliers), config, size, own, noise + taken, sent)
    destination[outliers] = generator.permutation(np.repeat(np.arange(num_classes), count))
    return destination, kind, kept


def _random_rank(
    identity: NDArray[np.int64], size: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """(N,) place of each image in a random order of its identity's images."""
    order = generator.permutation(len(identity))
    order = order[np.argsort(identity[order], kind="stable")]  # by identity, random inside
    first = np.cumsum(size) - size
    rank = np.empty_like(identity)
    rank[order] = np.arange(len(identity)) - np.repeat(first, size)
    return rank


def _held_out(
    size: NDArray[np.int64], num_outliers: int, config: NoiseConfig
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Identities (C,) whose images become outliers, and how many images (C,) are not needed."""
    tie = numpy_generator(config.seed, "noise", "held out").random(len(size))
    order = np.lexsort((tie, size))
    images = np.cumsum(size[order])
    count = int(np.searchsorted(images, num_outliers)) + 1 if num_outliers else 0
    remaining = 2 if config.flip or config.structured else 1
    if count and len(size) - count < remaining:
        raise _UnreachableError("outlier")
    held_out, surplus = np.zeros(len(size), np.bool_), np.zeros_like(size)
    held_out[order[:count]] = True
    if count:
        surplus[order[count - 1]] = images[count - 1] - num_outliers
    return held_out, surplus


def _receivers(
    name: str,
    total: int,
    config: NoiseConfig,
    size: NDArray[np.int64],
    own: NDArray[np.int64],
    noise: NDArray[np.int64],
    most: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(C,) images of one kind that arrive in each class; one-image classes as a last resort."""
    generator = numpy_generator(config.seed, "noise", name, "arrivals")
    rate = float(getattr(config, name))
    room = np.where(noise > 0, np.minimum(most, most_noise(own) - noise), most)
    count = noise_per_class(total, rate, size, np.where(size >= 2, room, 0), generator)
    left = total - int(count.sum())
    count += noise_per_class(left, rate, size, np.where(size == 1, room, 0), generator)
    if count.sum() < total:
        raise _UnreachableError(name)
    return count


def _scatter(
    identity: NDArray[np.int64], count: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """A random class for each flip, `count` (C,) of them in all, and never its own identity.

    Flips that drew their own identity swap with ones that neither have nor drew it. There are
    always enough: a class receives at most as many flips as the other identities send.
    """
    destination = generator.permutation(np.repeat(np.arange(len(count)), count))
    for own_class in np.unique(identity[identity == destination]):
        home = np.flatnonzero((identity == own_class) & (destination == own_class))
        others = np.flatnonzero((identity != own_class) & (destination != own_class))
        partner = generator.permutation(others)[: len(home)]
        destination[home], destination[partner] = destination[partner], own_class
    return destination


def _advice(
    name: str, identity: NDArray[np.int64], num_classes: int, config: NoiseConfig
) -> ConfigError:
    """What to say when the classes cannot bear a rate: the largest they can, to three places.

    Found by bisection, trying each rate, so that following the advice succeeds.
    """
    asked = float(getattr(config, name))
    possible, impossible = 0, round(np.ceil(1000 * asked))
    while impossible - possible > 1:
        rate = (possible + impossible) // 2
        try:
            _plant(identity, num_classes, config.model_copy(update={name: rate / 1000}))
            possible = rate
        except _UnreachableError:
            impossible = rate
    return ConfigError(
        f"{name}={asked:g} must fit the classes, but {len(identity)} images of {num_classes} "
        f"identities bear {possible / 1000:g} with this seed; set {name} to {possible / 1000:g}, "
        "or give classes with more images"
    )
