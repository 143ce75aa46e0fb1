"""How many threads torch uses, and how they wait, on a machine that others may use too."""

import os
from collections.abc import MutableMapping
from pathlib import Path

_OF_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_asleep(environ: MutableMapping[str, str]) -> None:
    """Let OpenMP's threads sleep at a barrier instead of spinning, unless `environ` has its own.

    A thread that spins keeps the core from the very thread it waits for: beside one busy process
    two threads on two cores trained at a tenth of their speed (docs/benchmarks/train.md). OpenMP
    reads the variable when it is loaded, with torch or faiss, so this comes before any of them.
    """
    if not any(name in environ for name in _OF_OPENMP):
        environ["OMP_WAIT_POLICY"] = "PASSIVE"


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, round(quota)))


def _quota(cgroups: Path) -> float | None:
    """Processor seconds a second that the container may use, as its own root shows it."""
    try:
        limit, period = (cgroups / "cpu.max").read_text().split()  # version 2: "max 100000"
    except (OSError, ValueError):
        try:
            limit = (cgroups / "cpu/cpu.cfs_quota_us").read_text().strip()  # version 1: -1 for none
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not limit.isdigit():
        return None
    return int(limit) / int(period)


def use_usable_cores() -> None:
    """Bound torch's threads by `usable_cores`, unless OMP_NUM_THREADS says how many.

    torch counts the machine's cores: in a container with two of 64 it would start 64 threads,
    which the kernel then stops for most of every period.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
