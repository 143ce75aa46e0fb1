"""What benchmarks share: whose number it is, how it is timed, how it is shown and written."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]


def commit_of(folder: Path = ROOT) -> str | None:
    """The git commit of a checkout, with `+` when it holds changes; None outside of one."""
    try:
        texts = [
            subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return texts[0] + ("+" if texts[1] else "")


def machine(device: "str | torch.device" = "cpu") -> dict[str, Any]:
    """Command, commit, device and versions: without them a number is nobody's."""
    import torch

    device = torch.device(device)
    processor = platform.processor() or platform.machine()
    return {
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "commit": commit_of(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).name


def command_of(module: str, *arguments: object) -> list[str]:
    """How to start a tool in a process of its own, from the project's root (`cwd=ROOT`)."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Wall clock and processor seconds of a call; the latter is disturbed less by other work."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def memory_mib(what: str = "VmHWM", process: int | str = "self") -> float:
    """A line of /proc/<process>/status in MiB: VmHWM (peak resident), VmRSS, RssAnon.

    `getrusage` will not do for a peak: a process starts with that of the one that started it.
    """
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    assert found, f"no {what} in /proc/{process}/status"
    return int(found[1]) / 1024


def mean_and_spread(values: Sequence[float], form: str = ".4f") -> str:
    """Mean ± standard deviation over seeds; the mean alone of one, "" of none."""
    if not len(values):
        return ""
    spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{spread}"


def write_report(report: Any, path: Path | None, *, show: bool = True) -> None:
    """Print what was measured, and write it as JSON where a file is named."""
    if show:
        print(json.dumps(report, indent=2))
    if path is not None:
        from facetrain.core.artifact import write_json

        write_json(path, report)
