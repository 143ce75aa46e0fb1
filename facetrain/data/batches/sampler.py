"""Which images each training step sees: arithmetic on (seed, step), with nothing to save.

An epoch is an order of images cut into global batches, the incomplete last one dropped. The world
size only cuts a global batch into ranks, so a run resumes at any step and at any world size.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facetrain.core.config import Config
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.option_of import Of
from facetrain.core.rng import numpy_generator

NO_ROW = -1


class SamplingConfig(Config):
    """Which images an epoch draws; as many in all as there are to draw from."""

    by: Literal["image", "identity", "batch"] = "image"
    """`image`: every image once. `identity`: every identity equally often, its images in turn
    (class balance). `batch`: P identities a batch, `images_per_identity` of each (P x K)."""
    images_per_identity: Annotated[int | None, Of("by", ("batch",))] = Field(None, ge=2)
    """K, of `batch`: 4 by default; an identity that has fewer repeats them."""
    least_images: int = Field(1, ge=1)
    """Identities with fewer images are never drawn; their classes stay as negatives."""

    @property
    def draw(self) -> int:
        """Images of an identity that are drawn together."""
        return (self.images_per_identity or 4) if self.by == "batch" else 1


class TrainSampler:
    """Rows of the data set for every step, without end.

    Args:
        batch_size: images a step over all ranks, G.
        sampling: see `SamplingConfig`; every image once without it.
        label: (num_images,) identities, where `sampling` looks at them.

    Raises:
        ConfigError: a batch size below 1, or one that P x K does not fill.
        DataError: fewer images, or identities, than one batch needs.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        sampling: SamplingConfig | None = None,
        label: NDArray[np.int64] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"train.batch_size={batch_size}: must be at least 1")
        self.sampling = sampling or SamplingConfig()
        rows = np.arange(num_images)
        if self.sampling.least_images > 1:
            assert label is not None
            rows = rows[np.bincount(label)[label] >= self.sampling.least_images]
        if len(rows) < batch_size:
            few = self.sampling.least_images
            of = f" of identities with {few} or more" if few > 1 else ""
            change = f"train.batch_size to at most {len(rows)}"
            if label is not None and not len(rows):
                change = f"sampling.least_images to at most {np.bincount(label).max(initial=0)}"
            raise DataError(
                f"the data set holds {len(rows)} images{of}, but a global batch needs {batch_size}"
                f"; set {change}"
            )
        self._rows = rows
        self._identity = None
        if self.sampling.by != "image":
            assert label is not None
            self._identity = label[rows]
            self._check_fits(batch_size, len(np.unique(self._identity)))
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""
        return len(self._rows) // self.batch_size

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Rows of the global batch of `step` (counted from 0 over all epochs), (G,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            # 17 million images take about a second, once an epoch; the workers' queue covers it.
            self._order = self._order_of(numpy_generator(self.seed, "epoch", epoch))
            self._epoch = epoch
        start = position * self.batch_size
        return self._order[start : start + self.batch_size]

    def _order_of(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of an epoch in order."""
        if self._identity is None:
            return self._rows[rng.permutation(len(self._rows))]
        draw, number = self.sampling.draw, len(self._rows)
        # An identity's images in a random order, one identity after the other.
        by_identity = self._rows[np.lexsort((rng.random(number), self._identity))]
        _, count = np.unique(self._identity, return_counts=True)
        first = np.cumsum(count) - count
        # Passes over the identities; with P x K only whole batches of a pass, so that a batch has
        # no identity twice.
        usable = len(count)
        if self.sampling.by == "batch":
            usable -= usable % (self.batch_size // draw)
        passes = -(-number // (draw * usable))
        identity = np.concatenate([rng.permutation(len(count))[:usable] for _ in range(passes)])
        turn = np.repeat(np.arange(passes), usable)[:, None] * draw + np.arange(draw)
        place = first[identity][:, None] + turn % count[identity][:, None]  # (draws, K)
        return np.asarray(by_identity[place.ravel()[:number]], np.int64)

    def _check_fits(self, batch_size: int, num_identities: int) -> None:
        draw = self.sampling.draw
        if batch_size % draw:
            raise ConfigError(
                f"train.batch_size={batch_size}: must be a multiple of the {draw} images of an "
                f"identity; set it to {batch_size - batch_size % draw or draw}, or change "
                "sampling.images_per_identity"
            )
        if self.sampling.by == "batch" and num_identities < batch_size // draw:
            raise DataError(
                f"a batch of {batch_size} needs {batch_size // draw} identities with {draw} images "
                f"each, but there are {num_identities}; set train.batch_size lower, or "
                "sampling.images_per_identity higher"
            )

    def rank_rows(self, step: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """One rank's part of the global batch, (ceil(G / world_size),); see `rank_part`."""
        return rank_part(self.rows_of_step(step), rank, world_size)


def rank_part(rows: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """One rank's part of the rows of a global batch (G,), (ceil(G / world_size),).

    Parts are contiguous, as torch.chunk cuts them; trailing ranks are filled up with NO_ROW, so
    that every rank has the same number.
    """
    size = -(-len(rows) // world_size)
    padded = np.full(size * world_size, NO_ROW, np.int64)
    padded[: len(rows)] = rows
    return padded[rank * size : (rank + 1) * size]
