"""How many threads torch uses, and how they wait, on a machine that others may use too."""

import os
from collections.abc import Iterator, MutableMapping
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


def usable_cores(
    cgroups: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> int:
    """Cores that this process may use: its affinity, and the quota of its container.

    Args:
        cgroups: where the system shows the control groups.
        groups: the file that says in which of them this process is.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _groups(cgroups, groups)]
    return max(1, min([cores, *(round(quota) for quota in quotas if quota is not None)]))


def _groups(cgroups: Path, groups: Path) -> Iterator[Path]:
    """Folders of all control groups that hold the process; each may have a quota.

    In a container its own group shows as the root; under systemd or a batch system it lies below.
    """
    yield from (cgroups, cgroups / "cpu")  # version 2, version 1
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)  # version 2 has no controllers: "0::/a.slice"
        if ".." not in path and (not controllers or "cpu" in controllers.split(",")):
            own = (cgroups / "cpu" if controllers else cgroups) / path.lstrip("/")
            yield from (own, *own.parents[: path.count("/") - 1])


def _quota(group: Path) -> float | None:
    """Processor seconds a second that a control group may use; None for any number."""
    try:
        limit, period = (group / "cpu.max").read_text().split()  # version 2: "max 100000"
    except (OSError, ValueError):
        try:
            limit = (group / "cpu.cfs_quota_us").read_text().strip()  # version 1: -1 for none
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(limit) / int(period) if limit.isdigit() else None


def use_usable_cores() -> None:
    """Bound torch's threads by `usable_cores`, unless OMP_NUM_THREADS says how many.

    torch counts the machine's cores: in a container with two of 64 it would start 64 threads,
    which the kernel then stops for most of every period.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
