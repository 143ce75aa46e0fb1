"""A training on a CPU that others use too: alone, beside one busy process, beside two.

    python -m tools.benchmarks.threads --json threads.json

Each measurement is a fresh process with the trainer's own step of a small network, at torch's own
number of threads; `spins` is how OpenMP's threads wait by themselves, `sleeps` how `facetrain`
makes them wait (facetrain/core/threads.py). The fair share of T threads beside B busy processes on
C cores is min(1, C / (T + B)) of a core for each thread. The ways and cases take turns.
`machine_cores` is how many cores were at work, whoever's; where that is all of them, look at images
a processor second: what the kernel gives is its affair, what is made of it the training's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.benchmarks.common import ROOT, command_of, make_parser, write_report

WAYS: dict[str, dict[str, str]] = {"spins": {}, "sleeps": {"OMP_WAIT_POLICY": "PASSIVE"}}
CHILD = "--child"
BUSY = "while True: sum(range(10000))"


def train(seconds: float, batch: int) -> None:
    """Print images a second of a small network's training."""
    import torch

    from facetrain.dist.mesh import Mesh
    from facetrain.engine.cpu_memory import keep_freed_memory
    from tools.benchmarks.train import facetrain_step

    keep_freed_memory()
    options = argparse.Namespace(
        model="small", image_size=64, gradient_checkpointing=False, chunk_size=None, classes=5000
    )
    options.batch, options.channels_last, options.compile = batch, True, False
    options.precision = "float32"
    with tempfile.TemporaryDirectory() as folder:
        step = facetrain_step(options, Mesh.single(), Path(folder))
        for number in range(3):
            step(number)
        own, started, machine = time.process_time(), time.perf_counter(), busy_seconds()
        done = 0
        while time.perf_counter() - started < seconds:
            step(done)
            done += 1
        wall = time.perf_counter() - started
        numbers = {
            "images_per_second": done * batch / wall,
            "cores": (time.process_time() - own) / wall,
            "images_per_processor_second": done * batch / (time.process_time() - own),
            "machine": (busy_seconds() - machine) / wall,
            "threads": torch.get_num_threads(),
        }
    print(json.dumps(numbers))


def busy_seconds() -> float:
    """Processor seconds the machine has worked since it started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields)) - idle) / os.sysconf("SC_CLK_TCK")


def measure(way: str, num_busy: int, options: argparse.Namespace) -> dict[str, Any]:
    """One child beside `num_busy` processes that do nothing but compute."""
    environ = {
        k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP", "MKL"))
    }
    command = command_of("tools.benchmarks.threads", CHILD)
    command += ["--seconds", str(options.seconds), "--batch", str(options.batch)]
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(num_busy)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environ | WAYS[way], capture_output=True, text=True, check=True
        )
    finally:
        for process in busy:
            process.kill()
    numbers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(CHILD, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options.seconds, options.batch)
        return
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for num_busy in (0, 1, 2):
            for way in WAYS:
                numbers = measure(way, num_busy, options)
                found.setdefault((num_busy, way), []).append(numbers)
                print(num_busy, way, {k: round(v, 2) for k, v in numbers.items()}, flush=True)
    cores = len(os.sched_getaffinity(0))
    rows = []
    for (num_busy, way), rounds in found.items():
        rate = statistics.median(numbers["images_per_second"] for numbers in rounds)
        alone = max(
            statistics.median(n["images_per_second"] for n in found[0, other]) for other in WAYS
        )
        threads = rounds[0]["threads"]
        fair = alone * min(1.0, cores / (threads + num_busy))
        rows.append(
            {
                "busy": num_busy,
                "way": way,
                "images_per_second": round(rate, 1),
                "by_round": [round(numbers["images_per_second"], 1) for numbers in rounds],
                "of_fair_share": round(rate / fair, 3),
                "images_per_processor_second": [
                    round(numbers["images_per_processor_second"], 1) for numbers in rounds
                ],
                "machine_cores": [round(numbers["machine"], 2) for numbers in rounds],
            }
        )
    write_report(rows, options.json)


if __name__ == "__main__":
    main()
