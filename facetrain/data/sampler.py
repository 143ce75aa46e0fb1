"""Which images each training step sees: arithmetic on (seed, step), with nothing to save.

An epoch is a permutation cut into global batches, the incomplete last one dropped. The world
size only cuts a global batch into ranks, so a run resumes at any step and at any world size.
"""

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import ConfigError, DataError
from facetrain.core.rng import numpy_generator

NO_ROW = -1


class TrainSampler:
    """Rows of the data set for every step, without end.

    Args:
        num_images: size of the data set.
        batch_size: images a step over all ranks, G.
        seed: the run's seed.

    Raises:
        ConfigError: a batch size below 1.
        DataError: fewer images than one batch.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"train.batch_size={batch_size}: must be at least 1")
        if num_images < batch_size:
            raise DataError(
                f"the data set holds {num_images} images, but a global batch needs {batch_size}; "
                f"set train.batch_size to at most {num_images}"
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""
        return self.num_images // self.batch_size

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Rows of the global batch of `step` (counted from 0 over all epochs), (G,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            # 17 million images take about a second, once an epoch; the workers' queue covers it.
            self._order = numpy_generator(self.seed, "epoch", epoch).permutation(self.num_images)
            self._epoch = epoch
        start = position * self.batch_size
        return self._order[start : start + self.batch_size]

    def rank_rows(self, step: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """One rank's part of the global batch, (ceil(G / world_size),).

        Parts are contiguous, as torch.chunk cuts them; trailing ranks are filled up with NO_ROW,
        so that every rank has the same number.
        """
        size = -(-self.batch_size // world_size)
        part = self.rows_of_step(step)[rank * size : (rank + 1) * size]
        rows = np.full(size, NO_ROW, np.int64)
        rows[: len(part)] = part
        return rows
