"""Training and embedding batches: which rows, their labels, and what a corrupt record does."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.batches.decoding import ImageSource, Rows, fill_here, fill_in_workers
from facetrain.data.batches.sampler import NO_ROW
from facetrain.data.shards.shard_set import OnCorrupt

NO_LABEL = -1


class LabelledSource(ImageSource, Protocol):
    """Images with one dense label each."""

    @property
    def label(self) -> NDArray[np.int64]:
        """(num_images,)."""


class StepSampler(Protocol):
    """Chooses the images of every training step: a TrainSampler or a MetaSampler."""

    batch_size: int  # images a step over all ranks, G

    def rank_rows(self, step: int, rank: int, world_size: int) -> Rows:
        """Images of one rank's batch, (ceil(G / world_size),); NO_ROW for padding."""


@dataclass(frozen=True)
class Batch:
    """Images on the host, ready for the device."""

    image: torch.Tensor
    """(B, 3, H, W) uint8 RGB, contiguous; zeros where there is no image. Floats of any shape (B,
    ...) are taken by a training as they are, without augmentation."""
    label: torch.Tensor
    """(B,) int64; -1 where there is no image (padding or a skipped corrupt record)."""
    index: torch.Tensor  # (B,) int64 position in the data set; -1 for padding


@dataclass
class _Loader:
    """What both loaders share: where batches are decoded, and what a corrupt record does."""

    source: ImageSource
    image_size: int
    batch_size: int
    workers: int
    on_corrupt: OnCorrupt
    pin_memory: bool
    num_skipped: int = 0  # corrupt records met in the batches handed out so far
    skipped: set[int] = field(default_factory=set)  # their distinct positions in the data set

    def _batches(
        self, all_rows: Iterable[Rows], label_of: Callable[[Rows], Rows]
    ) -> Generator[Batch, None, None]:
        if self.workers == 0:
            filled = fill_here(self.source, all_rows, self.image_size, self.pin_memory)
        else:
            filled = fill_in_workers(
                self.source,
                all_rows,
                self.image_size,
                self.batch_size,
                self.workers,
                self.pin_memory,
            )
        with contextlib.closing(filled):
            for rows, image, failures in filled:
                label = np.where(rows == NO_ROW, NO_LABEL, label_of(rows))
                for position, text, whole_shard in failures:
                    self._note_failure(int(rows[position]), text, whole_shard)
                    label[position] = NO_LABEL
                yield Batch(image, self._on_host(label), self._on_host(rows))

    def _on_host(self, array: Rows) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.pin_memory else tensor

    def _note_failure(self, row: int, text: str, whole_shard: bool) -> None:
        if self.on_corrupt == "error" or whole_shard:
            raise DataError(text)
        if row not in self.skipped:
            logger.warning("skipped: %s", text)
        self.num_skipped += 1
        self.skipped.add(row)


class TrainLoader(_Loader):
    """A rank's batch of every training step from `start_step` on, without end.

    The batches depend on the sampler, rank and world_size, and never on `workers`. Workers live
    until the iterator is closed or dropped, so an epoch's border costs nothing.

    Args:
        image_size: H = W; other sizes are resized in the workers.
        sampler: which images each step takes.
        workers: decoding processes; 0 decodes in this one.
        start_step: the first step to hand out.
        on_corrupt: "error" raises the DataError that names shard and key; "skip" counts it and
            hands out zeros with label -1.
        pin_memory: page-locked batches, for a CUDA device.

    Raises:
        DataError: while iterating: a corrupt record or a dead worker.
    """

    def __init__(
        self,
        source: LabelledSource,
        image_size: int,
        sampler: StepSampler,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        start_step: int = 0,
        on_corrupt: OnCorrupt = "error",
        pin_memory: bool = False,
    ) -> None:
        rank_batch_size = -(-sampler.batch_size // world_size)
        super().__init__(source, image_size, rank_batch_size, workers, on_corrupt, pin_memory)
        self.sampler, self.label, self.start_step = sampler, source.label, start_step
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Generator[Batch, None, None]:
        steps = itertools.count(self.start_step)
        rows = (self.sampler.rank_rows(step, self.rank, self.world_size) for step in steps)
        return self._batches(rows, lambda rows: self.label[rows])


class OrderedLoader(_Loader):
    """Images `start` to `stop` in order, the last batch short: for embedding.

    `label` of its batches is 0 for an image and -1 for a skipped record.

    Args:
        batches: the numbers of those to hand out; all without it.
    The others are those of TrainLoader.
    """

    def __init__(
        self,
        source: ImageSource,
        image_size: int,
        batch_size: int,
        start: int,
        stop: int,
        *,
        batches: Sequence[int] | None = None,
        workers: int = 2,
        on_corrupt: OnCorrupt = "error",
        pin_memory: bool = False,
    ) -> None:
        super().__init__(source, image_size, batch_size, workers, on_corrupt, pin_memory)
        count = -(-(stop - start) // batch_size)
        self.start, self.stop = start, stop
        self.numbers = range(count) if batches is None else batches

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Generator[Batch, None, None]:
        firsts = (self.start + number * self.batch_size for number in self.numbers)
        rows = (np.arange(first, min(first + self.batch_size, self.stop)) for first in firsts)
        return self._batches(rows, np.zeros_like)
