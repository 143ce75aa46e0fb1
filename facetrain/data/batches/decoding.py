"""Decode batches in worker processes, in a given order.

Workers decode straight into a ring of batch buffers that they share with the trainer, so a batch
crosses the process border without being sent: only its slot number does. The trainer copies the
slot out (into pinned memory for CUDA) and the slot is free again.

Workers are forked, on purpose. The ring is an anonymous shared mapping, which only a fork
inherits and which no container's /dev/shm limit touches; the data set's key and label arrays
(0.5 GB for 17 million images) are shared copy-on-write rather than pickled into every worker;
and a start costs milliseconds, also from a notebook. It is safe beside CUDA because a worker
touches nothing but NumPy, cv2 and the mapping.
"""

import mmap
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from facetrain.core.errors import DataError, UserError
from facetrain.data.batches.sampler import NO_ROW
from facetrain.data.images.decoder_warnings import with_warnings
from facetrain.data.shards.recordio import ShardChangedError

_PREFETCH = 4  # batches a worker may be ahead: enough to hide one slow batch

Rows = NDArray[np.int64]
Failures = list[tuple[int, str, bool]]
"""(position in the batch, what is wrong, whether the whole shard is at fault)"""

Filled = tuple[Rows, torch.Tensor, Failures]  # rows, their images (B, 3, H, W) uint8, failures


class ImageSource(Protocol):
    """Images by index: a FaceDataset or a VerificationSet."""

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """One image, (size, size, 3) RGB; DataError names the record that cannot be read."""


def _fill(source: ImageSource, rows: Rows, planes: NDArray[np.uint8]) -> Failures:
    """Decode `rows` into `planes` (B, 3, H, W); zeros for padding and for what is unreadable.

    Where a decoder printed something the rows are decoded again one by one, so that the warning
    names the image; listening to each by itself would cost every image what it costs a batch.
    """
    failures, warnings = with_warnings(lambda: _decode_rows(source, rows, planes))
    return _decode_rows(source, rows, planes) if warnings else failures


def _decode_rows(source: ImageSource, rows: Rows, planes: NDArray[np.uint8]) -> Failures:
    failures = []
    size = planes.shape[-1]
    for position, row in enumerate(rows.tolist()):
        plane = planes[position]
        if row == NO_ROW:
            plane[:] = 0
            continue
        try:
            image = source.decode(row, size)
        except DataError as error:
            failures.append((position, str(error), isinstance(error, ShardChangedError)))
            plane[:] = 0
            continue
        assert image.shape == (size, size, 3)
        # 3 us at 112 pixels, where a transposing copy takes 10.
        cv2.split(image, (plane[0], plane[1], plane[2]))
    return failures


class _RingFiller(Dataset[Failures | Exception]):
    """A worker's side: (slot, rows) in, the slot filled, its failures out, or what ends the run.

    Raised here, that would reach the trainer as a text with a traceback, without its type.
    """

    def __init__(self, source: ImageSource, ring: NDArray[np.uint8]) -> None:
        self.source = source
        self.ring = ring  # (slots, B, 3, H, W), shared

    def __getitem__(self, item: tuple[int, Rows]) -> Failures | Exception:
        slot, rows = item
        try:
            return _fill(self.source, rows, self.ring[slot])
        except (UserError, OSError, MemoryError) as error:
            return error


def _empty(count: int, size: int, pin_memory: bool) -> torch.Tensor:
    return torch.empty((count, 3, size, size), dtype=torch.uint8, pin_memory=pin_memory)


def fill_here(
    source: ImageSource, all_rows: Iterable[Rows], size: int, pin_memory: bool
) -> Generator[Filled, None, None]:
    """Decode in this process."""
    for rows in all_rows:
        image = _empty(len(rows), size, pin_memory)
        yield rows, image, _fill(source, rows, image.numpy())


def _outlive_sigterm(worker: int) -> None:
    """Ignore a first SIGTERM where the training saves its step on it; end at the second.

    `timeout` and Slurm signal every process of a job, and the training still needs its workers. A
    training that waits for them in vain sends the second.
    """
    if callable(signal.getsignal(signal.SIGTERM)):  # torch has put its own in this one's place
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _end_workers(results: Any) -> None:
    """End a loader's workers now: a traceback may hold it until Python ends, which then waits.

    That end sends one SIGTERM, which a worker outlives, and so does the loader's own.
    """
    results._shutdown_workers()  # it has no public way
    for worker in results._workers:
        worker.kill()


def fill_in_workers(
    source: ImageSource,
    all_rows: Iterable[Rows],
    size: int,
    batch_size: int,
    workers: int,
    pin_memory: bool,
) -> Generator[Filled, None, None]:
    """Decode in `workers` forked processes; results come in the order of `all_rows`.

    OpenCV's own threads are ended in this process first and for good: a fork does not carry them
    over, and a worker would wait for them for ever. A worker is one thread; `workers` is the way
    to ask for more.
    """
    cv2.setNumThreads(1)
    # The batch being copied out, beside all those that may be in flight.
    num_slots = _PREFETCH * workers + 1
    shape = (num_slots, batch_size, 3, size, size)
    ring = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)  # shared
    pending: deque[tuple[int, Rows]] = deque()

    def items() -> Iterator[tuple[int, Rows]]:
        for number, rows in enumerate(all_rows):
            pending.append((number % num_slots, rows))
            yield pending[-1]

    loader = DataLoader(
        _RingFiller(source, ring),
        batch_size=None,
        sampler=items(),
        num_workers=workers,
        collate_fn=lambda failures: failures,  # an item is a whole batch already
        worker_init_fn=_outlive_sigterm,
        multiprocessing_context="fork",
        prefetch_factor=_PREFETCH,
        generator=torch.Generator(),  # else it would draw from the trainer's global generator
    )
    results: Any = None
    try:
        results = iter(loader)
        for failures in results:
            if isinstance(failures, Exception):
                raise failures
            slot, rows = pending.popleft()
            image = _empty(len(rows), size, pin_memory)
            # NumPy's copy is one thread; torch's would wait for the cores the workers are using.
            np.copyto(image.numpy(), ring[slot, : len(rows)])
            yield rows, image, failures
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"every loader worker must live as long as the run, but one died: {error}; "
            "when it was killed for memory, lower data.workers"
        ) from None
    finally:
        if results is not None:
            _end_workers(results)
