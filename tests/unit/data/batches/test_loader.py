import contextlib
import errno
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from facetrain.core.errors import DataError, UserError
from facetrain.data.batches.loader import OrderedLoader, TrainLoader
from facetrain.data.batches.sampler import TrainSampler
from facetrain.data.dataset import FaceDataset

SIZE = 8


class MemorySource:
    """PNGs in memory, so that decoding has an exact answer; some may be broken or deadly."""

    def __init__(self, num_images=23, corrupt=(), deadly=()):
        generator = np.random.default_rng(5)
        self.num_images = num_images
        self.image = generator.integers(0, 256, (num_images, SIZE, SIZE, 3), dtype=np.uint8)
        self.label = np.arange(num_images, dtype=np.int64) * 10
        self.corrupt = set(corrupt)
        self.deadly = set(deadly)
        self.encoded = [cv2.imencode(".png", image[..., ::-1])[1] for image in self.image]

    def decode(self, index, size):
        if index in self.corrupt:
            raise DataError(f"train.rec:{index}: not a JPEG")
        if index in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        bgr = cv2.imdecode(self.encoded[index], cv2.IMREAD_COLOR)
        image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def training(source, workers=0, **options):
    """Steps of five images."""
    sampler = TrainSampler(source.num_images, 5, seed=1)
    return TrainLoader(source, SIZE, sampler, workers=workers, **options)


def take(loader, count=None):
    with contextlib.closing(iter(loader)) as batches:
        return list(itertools.islice(batches, count))


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)
        assert torch.equal(one.index, other.index)


@pytest.fixture(autouse=True)
def others():
    """Processes of other tests, such as their pools of ranks; none of a loader's own stays."""
    before = set(multiprocessing.active_children())
    yield before
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_holds_the_images_of_the_step_in_rgb(workers):
    source = MemorySource()
    loader = training(source, workers=workers)
    for step, batch in enumerate(take(loader, 12)):
        rows = loader.sampler.rows_of_step(step)
        assert batch.index.tolist() == rows.tolist()
        assert batch.label.tolist() == (rows * 10).tolist()
        assert batch.image.dtype == torch.uint8
        assert batch.image.is_contiguous()
        # (B, H, W, RGB) -> (B, RGB, H, W), the plainest way
        assert np.array_equal(batch.image.numpy(), np.moveaxis(source.image[rows], 3, 1))


def test_batches_do_not_depend_on_the_number_of_workers():
    generator_state = torch.get_rng_state()
    expected = take(training(MemorySource()), 25)  # 6 epochs
    for workers in (1, 2):
        batches = take(training(MemorySource(), workers=workers), 25)
        assert_same(batches, expected)  # also: a batch keeps its content while later ones come
    # Dropout and the like see the same numbers whatever loads the images.
    assert torch.equal(torch.get_rng_state(), generator_state)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_step_gives_the_tail_of_the_whole_run(workers):
    whole = take(training(MemorySource(), workers=workers), 14)
    loader = training(MemorySource(), workers=workers, start_step=6)
    assert_same(take(loader, 8), whole[6:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_out_the_global_batch(world_size):
    whole = take(training(MemorySource()), 6)
    ranks = [
        take(training(MemorySource(), rank=rank, world_size=world_size), 6)
        for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        parts = [batches[step] for batches in ranks]
        assert len({part.image.shape for part in parts}) == 1
        index = torch.cat([part.index for part in parts])
        image = torch.cat([part.image for part in parts])
        label = torch.cat([part.label for part in parts])
        assert torch.equal(index[index >= 0], batch.index)
        assert torch.equal(label[index >= 0], batch.label)
        assert torch.equal(image[index >= 0], batch.image)
        assert (index < 0).sum() == 1  # 5 images in 2 x 3 or 3 x 2 places
        assert (label[index < 0] == -1).all()
        assert (image[index < 0] == 0).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_record_is_the_sources_own_error(workers):
    loader = training(MemorySource(corrupt=[7]), workers=workers)
    bad_step = next(s for s in range(5) if 7 in loader.sampler.rows_of_step(s))
    batches = iter(loader)
    for _ in range(bad_step):
        next(batches)
    with pytest.raises(DataError) as error:
        next(batches)
    assert str(error.value) == "train.rec:7: not a JPEG"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_record_can_be_a_counted_skip(workers):
    steps = 40  # ten epochs: every slot of the ring has held an image before
    clean = take(training(MemorySource()), steps)
    loader = training(MemorySource(corrupt=[7, 9]), workers=workers, on_corrupt="skip")
    count = 0
    for batch, expected in zip(take(loader, steps), clean, strict=True):
        bad = torch.isin(batch.index, torch.tensor([7, 9]))
        count += int(bad.sum())
        assert torch.equal(batch.index, expected.index)
        assert torch.equal(batch.image[~bad], expected.image[~bad])
        assert torch.equal(batch.label[~bad], expected.label[~bad])
        assert (batch.image[bad] == 0).all()
        assert (batch.label[bad] == -1).all()
    assert loader.num_skipped == count > 2
    assert loader.skipped == {7, 9}


def test_a_dead_worker_is_an_error_and_not_a_hang():
    source = MemorySource(deadly=range(23))
    with pytest.raises(DataError, match=r"one died: DataLoader worker .*; .*lower data\.workers"):
        take(training(source, workers=1), 1)


def test_no_worker_is_left_while_the_error_of_one_that_died_is_held(others):
    """Where SIGTERM saves a step, workers outlive a first one; Python's end would wait for them."""
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(DataError, match="one died") as held:
            take(training(MemorySource(deadly=range(5)), workers=2))
        assert held.value.__context__ is not None  # whose frames hold the loader
        assert set(multiprocessing.active_children()) <= others
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        OSError(errno.EMFILE, "Too many open files", "train.rec"),
        PermissionError(errno.EACCES, "Permission denied", "train.rec"),
        UserError("0.jpg: must be readable"),
    ],
)
def test_what_a_worker_is_short_of_arrives_as_it_is(error):
    """Not as torch's text with a traceback in it, which no message can be made of."""

    class Short(MemorySource):
        def decode(self, index, size):
            raise error

    with pytest.raises(type(error)) as found:
        take(training(Short(), workers=2))
    assert found.value.args == error.args
    assert getattr(found.value, "filename", None) == getattr(error, "filename", None)


def test_workers_live_across_epochs_and_end_when_the_consumer_fails(others):
    loader = training(MemorySource(), workers=2)

    def consume():
        processes = set()
        for step, _ in enumerate(loader):
            own = set(multiprocessing.active_children()) - others
            processes.add(tuple(sorted(process.pid for process in own)))
            if step == 12:  # the third epoch
                assert len(processes) == 1
                assert len(processes.pop()) == 2
                raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer"):
        consume()


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_batches_cover_a_range_once(workers):
    source = MemorySource(corrupt=[12])
    loader = OrderedLoader(
        source, SIZE, batch_size=4, start=3, stop=14, workers=workers, on_corrupt="skip"
    )
    batches = take(loader)
    assert [len(batch.image) for batch in batches] == [4, 4, 3]
    assert len(loader) == 3
    index = torch.cat([batch.index for batch in batches])
    label = torch.cat([batch.label for batch in batches])
    image = torch.cat([batch.image for batch in batches]).numpy()
    assert index.tolist() == list(range(3, 14))
    expected = np.moveaxis(source.image[3:14], 3, 1).copy()
    expected[12 - 3] = 0
    assert np.array_equal(image, expected)
    assert label.tolist() == [0] * 9 + [-1] + [0]
    assert loader.skipped == {12}
    empty = OrderedLoader(source, SIZE, batch_size=4, start=5, stop=5, workers=workers)
    assert take(empty) == []
    assert len(empty) == 0


def test_another_image_size_is_asked_of_the_source():
    source = MemorySource()
    (batch,) = take(OrderedLoader(source, SIZE // 2, 3, 0, 3, workers=0))
    # Halving by area is the mean of 2 x 2 pixels, rounded (within 1: the tie's direction).
    mean = source.image[:3].reshape(3, SIZE // 2, 2, SIZE // 2, 2, 3).mean((2, 4))
    assert np.abs(batch.image.numpy() - np.moveaxis(mean, 3, 1)).max() <= 0.5


def test_real_faces_come_as_the_data_set_decodes_them(lfw):
    dataset = FaceDataset.open(lfw / "train.rec")
    sampler = TrainSampler(dataset.num_images, 16, 0)
    loader = TrainLoader(dataset, 64, sampler, workers=2, start_step=500)
    for batch in take(loader, 2):
        for image, label, index in zip(batch.image, batch.label, batch.index, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), dataset.decode(int(index), 64))
            assert label == dataset.label[index]


@pytest.mark.slow
def test_workers_start_after_this_process_has_used_opencvs_threads():
    """A fork does not carry threads over: OpenCV in a worker would wait for them for ever."""
    script = f"""
import sys
import cv2, numpy as np
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_loader import MemorySource, OrderedLoader
cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 9)
print(sum(len(b.index) for b in OrderedLoader(MemorySource(), 64, 8, 0, 23, workers=1)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "23", done.stderr
