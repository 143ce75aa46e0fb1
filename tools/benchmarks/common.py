"""What benchmarks share: whose number it is, how it is timed, how it is shown and written."""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from facetrain.engine.settings import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]


UNREAD: dict[str, Any] = {"data": {"path": "none"}, "model": {"name": "small"}}
"""What a recipe must have, of a training whose images and network are there already."""
Seconds = dict[str, list[float]]
"""Of each way that took turns with others, a number a round."""


def make_parser(doc: str | None, *, numbers: bool = True) -> argparse.ArgumentParser:
    """A tool's parser: its module's text is the help, and `--json FILE` takes its `numbers`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if numbers:
        parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser


def training_config(**sections: Any) -> "TrainingConfig":
    """A recipe's sections for a `Trainer` whose images and network are there already."""
    from facetrain.engine.settings import TrainingConfig

    return TrainingConfig.model_validate(UNREAD | sections)


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


def clock(device: "str | torch.device" = "cpu") -> float:
    """Seconds of the wall clock, once the device has done what it was given."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(
    work: Callable[[], object], device: "str | torch.device" = "cpu"
) -> tuple[float, float]:
    """Wall clock and processor seconds of a call; the latter is disturbed less by other work."""
    started, used = clock(device), time.process_time()
    work()
    return clock(device) - started, time.process_time() - used


def take_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: "str | torch.device" = "cpu"
) -> tuple[Seconds, Seconds]:
    """Wall clock and processor seconds of every way, which take turns: a busy machine slows all."""
    wall, processor = Seconds(), Seconds()
    for _ in range(rounds):
        for name, work in ways.items():
            seconds, used = seconds_of(work, device)
            wall.setdefault(name, []).append(seconds)
            processor.setdefault(name, []).append(used)
    return wall, processor


def medians(seconds: Seconds) -> dict[str, float]:
    """Of each way over the rounds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratios(seconds: Seconds, peer: str) -> Seconds:
    """Of each way to the peer within a round: what slows the machine slows both."""
    return {
        name: [one / other for one, other in zip(values, seconds[peer], strict=True)]
        for name, values in seconds.items()
    }


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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as a page has it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_report(report: Any, path: Path | None, *, show: bool = True) -> None:
    """Print what was measured, and write it as JSON where a file is named."""
    if show:
        print(json.dumps(report, indent=2))
    if path is not None:
        from facetrain.core.artifact import write_json

        write_json(path, report)
