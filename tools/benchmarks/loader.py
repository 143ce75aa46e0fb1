"""What the loader keeps of raw decoding speed: a ratio, both sides in one run.

Raw: one core, cv2.imdecode over encoded images that lie in memory. Loader: batches as training
gets them (read, decoded, planar RGB, handed over by worker processes), images a second and
worker. The two take turns, so that a busy machine slows both; medians over the turns. `ratio` is
by the clock, for one worker; `cpu_ratio` is by CPU time, which other people's work hardly moves.

    python -m tools.benchmarks.loader --json loader.json [--data train.rec] [--workers 2]
"""

import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.batches.loader import Batch, TrainLoader
from facetrain.data.batches.sampler import TrainSampler
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.shards.face_shard import FaceShardWriter
from tools.benchmarks.common import machine, make_parser, write_report

IMAGE_SIZE = 112
NUM_IMAGES = 4096  # 17 MB encoded: beyond the caches, as training is
IDLE_SECONDS = 0.3  # until every prefetch queue is full, so that no worker disturbs the next turn


def write_patterns(path: Path) -> None:
    """A shard of smooth patterns whose JPEGs are as big as those of faces (4.4 kB)."""
    random = np.random.default_rng(0)
    with FaceShardWriter(path) as writer:
        for label in range(NUM_IMAGES // 8):
            for _ in range(8):
                coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                smooth = cv2.resize(coarse, (IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
                noisy = smooth + random.normal(0, 4, smooth.shape)
                writer.write(label, encode_jpeg(noisy.clip(0, 255).astype(np.uint8), 92))


class Rates:
    """Images a second of one contestant, turn by turn: by the clock, and by CPU time spent."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used, by the clock that Linux keeps for each."""
    return time.clock_gettime((~pid << 3) | 2)


def time_raw(records: list[NDArray[np.uint8]], seconds: float, rates: Rates) -> None:
    """Decode on this core for about `seconds`."""
    count = 0
    started, cpu_started = time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds:
        for record in records[count % len(records) :][:256]:
            cv2.imdecode(record, cv2.IMREAD_COLOR)
            count += 1
    rates.wall.append(count / elapsed)
    rates.cpu.append(count / (time.process_time() - cpu_started))


def time_loader(batches: Iterator[Batch], pids: set[int], seconds: float, rates: Rates) -> None:
    """Take batches for about `seconds`; rates are for each of the workers `pids`."""
    for _ in range(6 * len(pids)):  # what was prefetched meanwhile
        next(batches)
    count = 0
    started, cpu_started = time.perf_counter(), sum(map(cpu_seconds, pids))
    while (elapsed := time.perf_counter() - started) < seconds:
        count += len(next(batches).index)
    rates.wall.append(count / elapsed / len(pids))
    # The sum is the CPU time of all workers, so this is for each of them already.
    rates.cpu.append(count / (sum(map(cpu_seconds, pids)) - cpu_started))


def summary(loader: Rates, raw: Rates) -> dict[str, float]:
    """Medians of one loader's rate and of its ratio to raw decoding in the same turn."""

    def ratio(ours: list[float], theirs: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))

    return {
        "loader_images_per_second_per_worker": statistics.median(loader.wall),
        "ratio": ratio(loader.wall, raw.wall),
        "loader_images_per_cpu_second": statistics.median(loader.cpu),
        "cpu_ratio": ratio(loader.cpu, raw.cpu),
    }


def bench(
    data: Path, worker_counts: list[int], batch_size: int, seconds: float, repetitions: int
) -> dict[str, Any]:
    """Alternate raw decoding and each loader; the first of `worker_counts` is the headline."""
    dataset = FaceDataset.open(data)
    sampler = TrainSampler(dataset.num_images, batch_size, 0)
    rows = np.random.default_rng(0).permutation(dataset.num_images)[:NUM_IMAGES]
    records = [np.frombuffer(dataset.encoded(int(row)), np.uint8) for row in rows]
    cv2.setNumThreads(1)
    raw, rates = Rates(), {workers: Rates() for workers in worker_counts}
    loaders: dict[int, tuple[Iterator[Batch], set[int]]] = {}
    with contextlib.ExitStack() as stack:
        for workers in worker_counts:
            before = {process.pid for process in multiprocessing.active_children()}
            loader = TrainLoader(dataset, IMAGE_SIZE, sampler, workers=workers)
            batches = stack.enter_context(contextlib.closing(iter(loader)))
            next(batches)
            now = {process.pid for process in multiprocessing.active_children()}
            loaders[workers] = batches, {pid for pid in now - before if pid is not None}
        for _ in range(repetitions):
            time.sleep(IDLE_SECONDS)
            time_raw(records, seconds, raw)
            for workers, (stream, pids) in loaders.items():
                time_loader(stream, pids, seconds, rates[workers])
                time.sleep(IDLE_SECONDS)
    return {
        "raw_decode_images_per_second": statistics.median(raw.wall),
        "raw_decode_images_per_cpu_second": statistics.median(raw.cpu),
        **summary(rates[worker_counts[0]], raw),
        "by_workers": {str(workers): summary(rates[workers], raw) for workers in worker_counts},
        "batch_size": batch_size,
        "image_size": IMAGE_SIZE,
        "mean_encoded_bytes": float(np.mean([len(record) for record in records])),
        "repetitions": repetitions,
        "machine": machine(),
        "cv2": cv2.__version__,
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="a .rec or a folder of shards; else patterns")
    parser.add_argument("--workers", type=int, default=2, help="measured beside one worker")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement")
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    worker_counts = sorted({1, options.workers})
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder) / "patterns.rec"
            write_patterns(data)
        result = bench(data, worker_counts, options.batch, options.seconds, options.repetitions)
    write_report(result, options.json, show=False)
    print(f"raw cv2.imdecode, one core: {result['raw_decode_images_per_second']:,.0f} images/s")
    for workers, one in result["by_workers"].items():
        rate = one["loader_images_per_second_per_worker"]
        ratios = f"{one['ratio']:.2f} of raw, {one['cpu_ratio']:.2f} by CPU time"
        print(f"{workers} worker(s): {rate:,.0f} images/s each, {ratios}")


if __name__ == "__main__":
    main()
