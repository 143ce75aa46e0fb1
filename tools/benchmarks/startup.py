"""How long `facetrain` takes to say something: its help, and every command's first line.

    python -m tools.benchmarks.startup --json startup.json

`--help` is timed until its end. Of a command on a small set (160 rendered faces, made first) the
first line is timed that a pipe gets, of standard output or standard error, so without bars; the
command goes on to its end. Commands take turns; medians, with the range. The table shows the line.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.benchmarks.common import ROOT, make_parser, markdown_table, seconds_of, write_report

PROGRAM = [sys.executable, "-m", "facetrain"]
_RECIPE = """\
data: {path: faces, workers: 0}
model: {name: small, image_size: 32, embedding_size: 32, width: 8}
train: {batch_size: 32, epochs: 1, max_steps: 4}
embed: {workers: 0}
clean: {}
evaluate: {bins: [pairs.bin], workers: 0}
finetune: {method: cosface}
"""
HELPED = ("", "clean", "train", "review")


def prepare(folder: Path) -> None:
    """A set, its images as files, pairs of it, a recipe, and a run to look at."""
    from facetrain.data.dataset import FaceDataset
    from facetrain.data.synthetic import SyntheticConfig, write_synthetic

    config = SyntheticConfig(num_identities=20, min_images=8, max_images=8, size=32)
    write_synthetic(folder / "faces", config, quiet=True)
    faces = FaceDataset.open(folder / "faces")
    for image, label in enumerate(faces.label.tolist()):
        of_class = folder / "images" / str(label)
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / f"{image}.jpg").write_bytes(faces.encoded(image))
    names = [str(path.relative_to(folder / "images")) for path in folder.glob("images/*/*.jpg")]
    names.sort(key=lambda name: int(name.split("/")[1].split(".")[0]))
    same = [f"{names[i]} {names[i + 1]} 1" for i in range(0, len(names), 8)]
    other = [f"{names[i]} {names[i - 8]} 0" for i in range(0, len(names), 8)]
    (folder / "pairs.txt").write_text("\n".join(same + other) + "\n")
    (folder / "recipe.yaml").write_text(_RECIPE)
    for words in (
        ["pack", "images", "pairs.bin", "--pairs", "pairs.txt", "--size", "32"],
        ["variations", "faces", "--blur"],
        ["train", "recipe.yaml", "--out", "run/train"],
        ["embed", "recipe.yaml", "--out", "run/embed"],
        ["graph", "recipe.yaml", "--out", "run/graph"],
        ["clean", "recipe.yaml", "--out", "run/clean"],
    ):
        done = subprocess.run(
            [*PROGRAM, *words], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")


def commands(out: str) -> dict[str, list[str]]:
    """Arguments of every command, with what it leaves in a new folder."""
    return {
        "pack": ["pack", "images", out, "--size", "32"],
        "inspect": ["inspect", "faces"],
        "corrupt": ["corrupt", "faces", "--flip", "0.1", "--out", out],
        "variations": ["variations", "faces", "--blur", "--out", f"{out}.npz"],
        "train": ["train", "recipe.yaml", "--out", out],
        "embed": ["embed", "recipe.yaml", "--backbone", "run/train", "--out", out],
        "graph": ["graph", "--embeddings", "run/embed", "--out", out],
        "clean": ["clean", "recipe.yaml", "--embeddings", "run/embed", "--graph", "run/graph",
                  "--out", out],
        "clean DATA": ["clean", "images", "--backbone", "run/train", "--out", out],
        "evaluate": ["evaluate", "--backbone", "run/train", "--bin", "pairs.bin"],
        "finetune": ["finetune", "recipe.yaml", "--from", "run/train", "--out", out],
        "report": ["report", "run"],
        "review": ["review", "run", "--no-open"],
        "write": ["write", "run", "--format", "csv", "--out", out],
        "export": ["export", "run/train", "--format", "onnx", "--out", f"{out}.onnx"],
        "config": ["config", "clean"],
    }  # fmt: skip


def first_line(words: list[str], folder: Path) -> tuple[float, str]:
    """Seconds until a command's first line, and the line."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    line = ""
    while not line.strip() and process.poll() is None:
        line = process.stdout.readline()
    seconds = time.perf_counter() - started
    if words[0] == "review":
        process.send_signal(signal.SIGTERM)
    rest = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}: {line}{rest}")
    return seconds, line.strip()


def help_seconds(words: list[str]) -> float:
    """Wall time of `facetrain ... --help`."""
    command = [*PROGRAM, *words, "--help"]
    return seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))[0]


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of the commands")
    parser.add_argument("--help-rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", help="commands")
    options = parser.parse_args()
    root = str(ROOT)  # commands run in the folder of their files
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    seconds: dict[str, list[float]] = {}
    lines: dict[str, str] = {}
    for _ in range(options.help_rounds):
        for name in HELPED:
            words = [name] if name else []
            shown = " ".join(["facetrain", *words, "--help"])
            seconds.setdefault(shown, []).append(help_seconds(words))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for number in range(options.rounds):
            for command in commands(""):
                if options.only and command not in options.only:
                    continue
                arguments = commands(f"{command.split()[-1]}{number}")[command]
                until_first, lines[command] = first_line(arguments, folder)
                seconds.setdefault(command, []).append(until_first)
    rows = []
    report: dict[str, Any] = {}
    for command, taken in seconds.items():
        median = statistics.median(taken)
        report[command] = {"seconds": median, "rounds": taken, "line": lines.get(command)}
        span = f"{min(taken):.2f} to {max(taken):.2f}"
        rows.append([command, f"{median:.2f}", span, lines.get(command, "")])
    print(markdown_table(["command", "seconds", "range", "first line"], rows))
    write_report(report, options.json, show=False)


if __name__ == "__main__":
    main()
