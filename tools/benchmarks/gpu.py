"""Everything that only a GPU can say, in one run of five to seven minutes, most valuable first.

    python -m tools.benchmarks.gpu --out RESULTS --peer peers/arcface_torch --seconds 300

1. `pytest tests/gpu`, while the compiler fills its cache and a kNN graph of 5M rows is made.
2. ResNet-100, 84,000 identities, batch 128: the trainer's step beside arcface_torch's.
3. The whole classifier of 618K and 2M identities on this card.
4. Batch 256 beside the peer; batch 128 without CUDA graphs, compiler, channels_last.
5. 5M images cleaned (tools/benchmarks/scale.py); 10M identities; batch 512 beside the peer.
6. Where the device's time goes, by torch's profiler; what the card can do; kernels tuned by trying.

A step that would not fit into what is left of --seconds is left out and said to be. Each leaves its
numbers in RESULTS/gpu.json when it is done. `--small` tries all of it on a CPU in two minutes.

Beside torch it needs numpy, OpenCV, PyYAML, tqdm, pydantic, safetensors, scikit-learn (with scipy)
and xxhash, and pytest for the first step; neither faiss nor DGL. What a machine without a network
lacks of these comes along as wheels:

    pip download --only-binary=:all: --python-version 3.12 --dest wheels PACKAGES
    pip install --no-index --find-links wheels PACKAGES
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from facetrain.core.artifact import read_json, write_json
from facetrain.dist.mesh import Mesh
from facetrain.engine import compiled
from facetrain.models.backbone import ModelConfig, build_backbone
from tools.benchmarks.common import ROOT, machine
from tools.benchmarks.train import (
    EMBEDDING_SIZE,
    Contender,
    facetrain_step,
    held_bytes,
    peer_step,
)

CHUNK = 65_536
WARM = "--warm"
KEEP_GOING = ("--continue-on-collection-errors",)


class Bench:
    """The run: what is left of its time, its numbers, and the ways to take them."""

    def __init__(self, options: argparse.Namespace, mesh: Mesh, folder: Path) -> None:
        self.options, self.mesh, self.folder = options, mesh, folder
        self.started = time.monotonic()
        self.report: dict[str, Any] = {}
        self.scale: subprocess.Popen[bytes] | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return float(self.options.seconds) - (time.monotonic() - self.started)

    def step(self, name: str, needs: float, work: Callable[[], dict[str, Any]]) -> None:
        """Do one step, unless it would not fit; a failure is told and the next one comes."""
        started = time.monotonic()
        if self.left < needs:
            numbers: dict[str, Any] = {"left_out": f"needs {needs:.0f} s, {self.left:.0f} are left"}
        else:
            try:
                numbers = work()
            except Exception as error:
                traceback.print_exc()
                numbers = {"failed": f"{type(error).__name__}: {error}"[:500]}
            numbers["wall_seconds"] = round(time.monotonic() - started, 1)
        self.report[name] = numbers
        write_json(self.options.out / "gpu.json", self.report)
        shown = {k: v for k, v in numbers.items() if not isinstance(v, list | dict)}
        print(f"[{time.monotonic() - self.started:5.0f} s] {name}: {shown}", flush=True)

    def trained(
        self, batch: int, classes: int, backbone: nn.Module | None = None, **changes: Any
    ) -> Contender:
        """Our step, warm, its memory taken; alone on the card, or its memory is not its own."""
        options = argparse.Namespace(**{**vars(self.options), **changes})
        options.batch, options.classes = batch, classes
        base = held_bytes(self.mesh.device)
        if backbone is not None:
            base = 0  # what it holds from before is part of it
        step = facetrain_step(options, self.mesh, self.folder, backbone)
        return self._warm(Contender("facetrain", step, self.mesh.device), base)

    def peer(self, batch: int, classes: int) -> Contender:
        """arcface_torch's step, likewise."""
        options = argparse.Namespace(**vars(self.options))
        options.batch, options.classes = batch, classes
        base = held_bytes(self.mesh.device)
        step = peer_step(options, self.mesh.device)
        return self._warm(Contender("arcface_torch", step, self.mesh.device), base)

    def _warm(self, contender: Contender, base: int) -> Contender:
        contender.run(1)
        contender.run(4)  # with CUDA graphs: warm-up, recording, replays
        contender.measure_peak(base)
        contender.seconds.clear()
        return contender

    def turns(self, contenders: list[Contender]) -> None:
        """Rounds of both in turn."""
        for _ in range(self.options.rounds):
            for contender in contenders:
                contender.run(self.options.steps)


def free() -> None:
    """Forget what was compiled and recorded, and give its memory back."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def without_graphs() -> Iterator[None]:
    """The compiler alone."""
    kept = compiled._records
    compiled._records = lambda mesh: False
    try:
        yield
    finally:
        compiled._records = kept


def beside_peer(bench: Bench, batch: int, backbone: nn.Module | None = None) -> dict[str, Any]:
    """One batch size: ours and the peer's in turn."""
    classes = bench.options.classes
    contenders = [bench.trained(batch, classes, backbone)]
    if bench.options.peer is not None:
        contenders.append(bench.peer(batch, classes))
    bench.turns(contenders)
    reports = {contender.name: contender.report(batch) for contender in contenders}
    found: dict[str, Any] = {**reports, "milliseconds": reports["facetrain"]["step_milliseconds"]}
    found["images_per_second"] = reports["facetrain"]["images_per_second"]
    if "arcface_torch" in reports:
        pairs = zip(*(contender.seconds for contender in contenders), strict=True)
        by_round = [peer / own for own, peer in pairs]
        found["times_as_fast"] = round(statistics.median(by_round), 3)
        found["times_as_fast_by_round"] = [round(ratio, 3) for ratio in by_round]
        memory = [reports[name]["peak_memory_mib"] or 1 for name in reports]
        found["of_its_memory"] = round(memory[0] / memory[1], 3)
    return found


def alone(
    bench: Bench, batch: int, classes: int, backbone: nn.Module | None = None, **changes: Any
) -> dict[str, Any]:
    """Our step by itself."""
    contender = bench.trained(batch, classes, backbone, **changes)
    bench.turns([contender])
    return contender.report(batch)


def profile(bench: Bench, batch: int) -> dict[str, Any]:
    """Device time by kernel, of three steps, into RESULTS/profile.txt."""
    contender = bench.trained(batch, bench.options.classes)
    with torch.profiler.profile() as profiler:
        contender.run(3)
    cuda = bench.mesh.device.type == "cuda"
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=110)
    (bench.options.out / "profile.txt").write_text(table, encoding="utf-8")
    return {"steps": 3}


def rates(bench: Bench) -> dict[str, Any]:
    """What the card can do: bfloat16 products and copies, measured."""
    device, cuda = bench.mesh.device, bench.mesh.device.type == "cuda"
    size = 8192 if cuda else 256
    x, y = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn((1 << 30) if cuda else (1 << 20), device=device)
    target = torch.empty_like(source)

    def seconds(work: Callable[[], object]) -> float:
        found = []
        for _ in range(12):
            started = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
        return statistics.median(found[2:])

    return {
        "bfloat16_tflops": round(2 * size**3 / seconds(lambda: x @ y) / 1e12, 1),
        "copy_gb_per_second": round(
            8 * source.numel() / seconds(lambda: target.copy_(source)) / 1e9
        ),
    }


def tuned(bench: Bench, batch: int) -> dict[str, Any]:
    """Reductions and point-wise kernels chosen by trying them."""
    from torch._inductor import config

    with config.patch(coordinate_descent_tuning=True, max_autotune_pointwise=True):
        return alone(bench, batch, bench.options.classes)


def started(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A Python process of its own in the repository's root, its output in `log`."""
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )


def finished(process: subprocess.Popen[bytes], limit: float, log: Path) -> dict[str, Any]:
    """Its exit status, killed at the limit, and the end of its log where that is not 0."""
    try:
        status = process.wait(max(1.0, limit))
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    return {"exit": status} | ({} if status == 0 else {"log": log.read_text()[-1500:]})


def tests_and_compilers(bench: Bench) -> dict[str, Any]:
    """Run the gpu tests, fill the compiler's cache, and let the graph of the cleaning be made."""
    out, batches = bench.options.out, [str(batch) for batch in bench.options.batches]
    began = time.monotonic()
    bench.scale = start_scale(bench)
    logs = [out / "tests.txt", bench.folder / "compiler_0.txt", bench.folder / "compiler_1.txt"]
    processes = [started(["-m", "pytest", "tests/gpu", "--durations=8", *KEEP_GOING], logs[0])]
    for part in (0, 1):  # more at once would not fit into memory
        arguments = ["-m", "tools.benchmarks.gpu", *sys.argv[1:], WARM, *batches[part::2]]
        processes.append(started(arguments, logs[1 + part]))
    numbers: dict[str, Any] = {}
    for log, process in zip(logs, processes, strict=True):
        left = bench.options.test_seconds - (time.monotonic() - began)
        numbers[log.stem] = finished(process, left, log)
        numbers[f"{log.stem}_seconds"] = round(time.monotonic() - began, 1)
    lines = logs[0].read_text(encoding="utf-8").splitlines()
    numbers["pytest"] = next((line for line in reversed(lines) if " in " in line), "")
    return numbers


def start_scale(bench: Bench) -> subprocess.Popen[bytes]:
    """The benchmark `scale`, which makes its set and graph and then waits for `cleaned`."""
    rows = "5000" if bench.options.small else "5000000"
    command = [
        "-m",
        "tools.benchmarks.scale",
        "--rows",
        rows,
        "--json",
        str(bench.folder / "scale.json"),
    ]
    command += ["--graph-dim", "128", "--skip-checks", "--device", bench.mesh.device.type]
    command += ["--wait-for", str(bench.folder / "go")]
    return started(command, bench.folder / "scale.txt")


def cleaned(bench: Bench) -> dict[str, Any]:
    """Let the cleaning go, alone on the card, until it ends or the time is up."""
    assert bench.scale is not None
    (bench.folder / "go").touch()
    found = finished(bench.scale, min(100, bench.left - 3), bench.folder / "scale.txt")
    path = bench.folder / "scale.json"
    return found | (read_json(path) if path.is_file() else {})


def run(bench: Bench) -> None:
    """All steps, most valuable first."""
    options, mesh = bench.options, bench.mesh
    first, *larger = options.batches
    classes = options.classes
    bench.step("tests", 0, lambda: tests_and_compilers(bench))
    backbone = new_backbone(options, mesh)
    bench.step(f"batch {first}", 20, lambda: beside_peer(bench, first, backbone))

    def whole(number: int) -> dict[str, Any]:
        return alone(bench, first, number, backbone, chunk_size=CHUNK)

    for number in options.many_classes[:2]:
        bench.step(f"classes {number}", 15, partial(whole, number))
    free()  # of the peer; what was compiled is compiled again from the cache
    bench.step(f"batch {larger[0]}", 30, lambda: beside_peer(bench, larger[0]))
    free()
    eager = partial(alone, bench, first, classes, compile=False)
    bench.step("not compiled", 12, eager)
    free()
    bench.step("not compiled, not channels_last", 12, partial(eager, channels_last=False))
    free()

    def no_graphs() -> dict[str, Any]:
        with without_graphs():
            return alone(bench, first, classes)

    bench.step("compiled, no CUDA graphs", 25, no_graphs)
    free()
    bench.step("clean", 40, lambda: cleaned(bench))
    for number in options.many_classes[2:]:
        bench.step(f"classes {number}", 50, partial(whole, number))
    free()
    for batch in larger[1:]:
        bench.step(f"batch {batch}", 35, partial(beside_peer, bench, batch))
        free()
    bench.step("profile", 20, lambda: profile(bench, larger[0]))
    bench.step("rates", 3, lambda: rates(bench))
    free()
    bench.step("tuned", 60, lambda: tuned(bench, larger[0]))
    if bench.scale is not None:
        bench.scale.kill()


def new_backbone(options: argparse.Namespace, mesh: Mesh) -> nn.Module:
    """A fresh network on the device."""
    torch.manual_seed(0)
    size = options.image_size
    model = ModelConfig(name=options.model, image_size=size, embedding_size=EMBEDDING_SIZE)
    return build_backbone(model).to(mesh.device)


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--peer", type=Path, help="recognition/arcface_torch of a checkout")
    parser.add_argument("--peer-commit", help="the peer's commit, where its folder is no checkout")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--test-seconds", type=float, default=140, help="limit of the first step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="a round")
    parser.add_argument("--small", action="store_true", help="on a CPU, tiny")
    parser.add_argument(WARM, type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.small
    options.model, options.image_size = ("iresnet18" if small else "iresnet100"), 112
    options.batches = [4, 6, 8] if small else [128, 256, 512]
    options.classes = 1_000 if small else 84_000
    options.many_classes = [2_000, 70_000, 80_000] if small else [618_000, 2_000_000, 10_000_000]
    options.compile, options.channels_last = not small, True
    options.chunk_size, options.gradient_checkpointing = None, False
    options.precision = "auto"
    if small:
        options.rounds, options.steps = 2, 1
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), "inductor")))
    mesh = Mesh.single("cpu" if small else "cuda")
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(options, mesh, folder)
        if options.warm is not None:
            for batch in options.warm:
                fill_cache(bench, batch)
            return
        bench.report["machine"] = {
            **machine(mesh.device),
            "peer_commit": options.peer_commit,
        }
        if options.peer is not None:
            backend = "gloo" if small else "nccl"
            store = f"file://{folder}/store"
            dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        run(bench)
        if dist.is_initialized():
            dist.destroy_process_group()


def fill_cache(bench: Bench, batch: int) -> None:
    """One step, so that the compiler's cache holds its kernels."""
    options = argparse.Namespace(**{**vars(bench.options), "batch": batch})
    facetrain_step(options, bench.mesh, bench.folder)(0)
    free()


if __name__ == "__main__":
    main()
