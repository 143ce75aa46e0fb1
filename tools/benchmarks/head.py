"""Peak memory and time of one head step (forward and backward) for each way to compute it.

    python -m tools.benchmarks.head --json head.json --classes 84000,1000000

Cases, all on the same batch and centres, each in a fresh process:
  plain    F.linear(F.normalize(x), F.normalize(W)), margin, scale, F.cross_entropy: the peer
  whole    MarginHead, all logits at once
  chunked  MarginHead streaming --chunk-size classes at a time
  sampled  MarginHead with --sample-rate of the classes (Partial FC), chunked
  sharded  MarginHead, chunked, centres split over two processes on the CPU

Memory is the peak resident set (CPU) or the allocator's peak (CUDA) of a rank, over what it held
before the first step: the centres and the batch. `beyond_centres_mib` contains the gradient of
the centres; `beyond_gradient_mib` does not. `cpu_seconds` is processor time of the process, which a
busy machine disturbs less. A case that does not fit is skipped with a reason.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facetrain.core.rng import torch_generator
from facetrain.dist.mesh import Mesh
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from tools.benchmarks.common import (
    ROOT,
    clock,
    command_of,
    machine,
    make_parser,
    memory_mib,
    write_report,
)

CASES = ("plain", "whole", "chunked", "sampled", "sharded")
SCALE, MARGIN = 64.0, 0.35
MIB = 2.0**20


class PlainHead(nn.Module):
    """CosFace as one writes it in an afternoon, without needless copies."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Per-sample loss (B,)."""
        cosine = F.linear(F.normalize(embedding), F.normalize(self.weight))  # (B, C)
        row = torch.arange(len(label), device=label.device)
        cosine[row, label] = cosine[row, label] - MARGIN
        return F.cross_entropy(SCALE * cosine, label, reduction="none")


def _head_config(options: argparse.Namespace) -> HeadConfig:
    return HeadConfig(
        scale=SCALE,
        cosine_margin=MARGIN,
        chunk_size=None if options.case == "whole" else options.chunk_size,
        sample_rate=options.sample_rate if options.case == "sampled" else 1.0,
    )


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return memory_mib()


def measure(options: argparse.Namespace, mesh: Mesh) -> dict[str, float]:
    """Median seconds and peak memory of this rank's part of the case."""
    torch.set_num_threads(max(1, options.threads // mesh.world_size))
    device = mesh.device
    head = MarginHead(_head_config(options), options.classes, options.size, mesh, seed=0)
    weight_mib = head.weight.numel() * head.weight.element_size() / MIB
    plain = PlainHead(head.weight.detach()) if options.case == "plain" else None
    if plain is not None:
        del head
    generator = torch_generator(1, "bench")
    rows = options.batch // mesh.world_size
    embedding = torch.randn(options.batch, options.size, generator=generator)
    label = torch.randint(options.classes, (options.batch,), generator=generator).to(device)
    own = slice(mesh.rank * rows, (mesh.rank + 1) * rows)
    embedding = embedding[own].to(device).requires_grad_()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) / MIB if cuda else memory_mib("VmRSS")
    seconds, cpu_seconds = [], []
    for step in range(options.steps + 1):
        embedding.grad = None
        (plain or head).zero_grad()
        mesh.barrier()
        start, cpu_start = clock(device), time.process_time()
        if plain is not None:
            loss = plain(embedding, label[own])
        else:
            head.begin_step(step)
            loss = head(embedding, label[own]).loss
        (loss.sum() / options.batch).backward()
        seconds.append(clock(device) - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        mean = loss.detach().mean().item()
    beyond = _peak_mib(device) - before
    gradient = weight_mib * (options.sample_rate if options.case == "sampled" else 1.0)
    return {
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "beyond_centres_mib": beyond,
        "beyond_gradient_mib": beyond - gradient,
        "centres_mib": weight_mib,
        "mean_loss": mean,
    }


def _rank(rank: int, options: argparse.Namespace, init_method: str, pipe: Connection) -> None:
    mesh = Mesh.join(rank, 2, rank, options.device, init_method)
    pipe.send(measure(options, mesh))
    mesh.close()


def _measure_sharded(options: argparse.Namespace) -> dict[str, float]:
    """The worse of two ranks."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = []
        processes = []
        for rank in range(2):
            here, there = context.Pipe()
            process = context.Process(
                target=_rank, args=(rank, options, f"file://{folder}/store", there)
            )
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        parts = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join()
    worst = {name: max(part[name] for part in parts) for name in parts[0]}
    return worst | {"mean_loss": sum(part["mean_loss"] for part in parts) / 2}


def _needed_mib(case: str, options: argparse.Namespace, classes: int) -> float:
    """A generous guess of the whole machine's need, to skip what cannot fit."""
    centres = classes * options.size * 4 / MIB
    logits = classes * options.batch * 4 / MIB
    copies = {"plain": 6.1, "sampled": 1.0 + 4 * options.sample_rate}.get(case, 2.1)
    needed: float = copies * centres + {"plain": 4.0, "whole": 3.0}.get(case, 0.1) * logits
    return 600 + needed


def _limit_mib(options: argparse.Namespace) -> float:
    if options.memory_gib is not None:
        return float(options.memory_gib) * 1024
    if options.device == "cuda":
        return 0.9 * torch.cuda.mem_get_info()[0] / MIB
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 0.8 * int(meminfo["MemAvailable"].split()[0]) / 1024


def _run_case(case: str, classes: int, options: argparse.Namespace) -> dict[str, Any]:
    if case == "sharded" and options.device == "cuda" and torch.cuda.device_count() < 2:
        return {"skipped": "needs two CUDA devices"}
    needed, limit = _needed_mib(case, options, classes), _limit_mib(options)
    if needed > limit:
        return {"skipped": f"needs about {needed:.0f} MiB of {limit:.0f} MiB"}
    command = command_of("tools.benchmarks.head", "--case", case, "--classes", classes)
    for name in ("batch", "size", "steps", "device", "threads", "chunk_size", "sample_rate"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"skipped": f"failed with {done.returncode}: {done.stderr.strip()[-300:]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _ratios(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each case over the plain head of the same run."""
    peer = results["plain"]
    if "skipped" in peer:
        return {}
    names = ("seconds", "cpu_seconds", "beyond_centres_mib", "beyond_gradient_mib")
    return {
        case: {name: round(result[name] / peer[name], 4) for name in names}
        for case, result in results.items()
        if case != "plain" and "skipped" not in result
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every case at every number of classes."""
    report: dict[str, Any] = {
        "machine": machine(options.device) | {"threads": options.threads},
        "batch": options.batch,
        "embedding_size": options.size,
        "chunk_size": options.chunk_size,
        "sample_rate": options.sample_rate,
        "classes": {},
    }
    for classes in options.class_list:
        results: dict[str, dict[str, Any]] = {}
        for case in CASES:
            results[case] = _run_case(case, classes, options)
            print(classes, case, json.dumps(results[case]), flush=True)
        ratios = _ratios(results)
        print(classes, "over plain", json.dumps(ratios), flush=True)
        report["classes"][str(classes)] = {"cases": results, "over_plain": ratios}
    return report


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--classes", default="84000,1000000,10000000", help="comma-separated")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=512, help="embedding size")
    parser.add_argument("--steps", type=int, default=5, help="timed steps after one warm-up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--chunk-size", type=int, default=32768)
    parser.add_argument("--sample-rate", type=float, default=0.1)
    parser.add_argument("--memory-gib", type=float, help="skip cases that would need more")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.class_list = [int(text) for text in options.classes.split(",")]
    if options.case is None:
        write_report(run(options), options.json, show=False)
        return
    options.classes = options.class_list[0]
    if options.case == "sharded":
        result = _measure_sharded(options)
    else:
        result = measure(options, Mesh.single(options.device))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
