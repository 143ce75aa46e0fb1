"""Run every `facetrain` command of the pages as it is printed, in a folder that has what they name.

    python -m tools.checks.commands README.md docs/getting_started.md --photographs FOLDER \
        --landmarks F.csv --bin F.bin --detector yunet.onnx --backbone F.onnx --weights RUN \
        --out DIR

A command is a line of a code block that begins with facetrain, torchrun or make demo, perhaps after
`$ `; or code in a table. It runs in DIR, where the names that the pages use (people, yunet.onnx,
lfw.bin, configs/mine.yaml, ...) stand for what is given here, or for small things made of it. Three
things differ from the page: a review is ended by Ctrl-C after it has said its address, torchrun
starts two processes, and trainings take a few steps of a small network. --weights is a training of
configs/lfw_small.yaml and --backbone its export; --landmarks are of the photographs. Prints status
and seconds of each command; exit status 1 where one fails.
"""

import argparse
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from tools.benchmarks.common import make_parser

COMMAND = [sys.executable, "-m", "facetrain"]
MINE = """\
base: lfw_small.yaml
data: {path: data/people}
train: {batch_size: 32, epochs: 1, margin_warmup_epochs: 0, precision: float32}
schedule: {warmup_epochs: 0}
evaluate: {bins: [lfw.bin]}
"""
FEW_STEPS = ("train.epochs=1", "train.max_steps=2", "train.batch_size=32")
SMALL = (
    "model.name=small", "model.width=32", "model.image_size=64", *FEW_STEPS,
    "train.precision=float32", "train.compile=false",
)  # fmt: skip
IRESNET = (
    "model.name=iresnet18", "model.width=null", "model.blocks=null", "model.image_size=112",
    "model.embedding_size=512", "train.epochs=1", "train.max_steps=1", "train.batch_size=8",
    "evaluate.bins=[]",
)  # fmt: skip
CHANGED = {  # what a command names -> what is added to it
    "configs/ms1m_r100_cosface.yaml": SMALL,
    "configs/finetune_mvcom.yaml": (*SMALL, "finetune.meta_batch_size=16"),
    "configs/lfw_small.yaml": FEW_STEPS,
    "model.weights=backbone.pth": IRESNET,
    "model.weights=runs/other/train": IRESNET,
}
"""Shorter trainings; weights are an IResNet's on the pages and `MINE` is another network. That
one is not evaluated after a training: it takes minutes there."""
MADE = {  # what pages name -> the command that makes it
    "IJB_release": "pack people IJB_release --templates ijbc --landmarks lfw_5pts.csv",
    "data/ms1m": "pack half_a data/ms1m --landmarks points.csv",
    "data/vggface2": "pack half_b data/vggface2 --landmarks points2.csv",
    "runs/other/train": f"train configs/mine.yaml --out runs/other/train {' '.join(IRESNET)}",
    "backbone.pth": "export runs/other/train --format pth --out backbone.pth",
}


def commands(page: Path) -> Iterator[str]:
    """The commands in a page's code blocks and tables, as they follow each other.

    Without their prompt and comments, with their shell variables filled in. In a table a command
    is code with arguments: `facetrain pack` alone is a name.
    """
    variables: dict[str, str] | None = None  # of the block; None outside of one
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            variables = {} if variables is None else None
        elif variables is not None:
            if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[assigned[1]] = assigned[2]
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            line = line.removeprefix("$ ")
            if re.match(r"(\.venv/bin/)?(facetrain [a-z]|torchrun)", line):
                yield re.sub(r"\s+#.*", "", line)
            elif line.startswith("make demo"):
                yield "facetrain demo --out demo"
        elif line.startswith("|"):
            for code in re.findall(r"`(facetrain (?:[a-z]+ [^`]+|--[^`]+))`", line):
                yield code.partition(r" \|")[0]


def prepare(out: Path, options: argparse.Namespace) -> None:
    """The names that the pages use."""
    (out / "configs").mkdir(parents=True)
    for recipe in Path("configs").glob("*.yaml"):
        shutil.copy(recipe, out / "configs")
    (out / "configs/mine.yaml").write_text(MINE, encoding="utf-8")
    links = {
        "people": options.photographs, "lfw": options.photographs, "lfw.bin": options.bin,
        "lfw-deepfunneled": options.photographs, "agedb_30.bin": options.bin,
        "val.bin": options.bin, "yunet.onnx": options.detector,
        "face_detection_yunet.onnx": options.detector, "w600k_r50.onnx": options.backbone,
        "B": options.weights, "lfw_5pts.csv": options.landmarks,
    }  # fmt: skip
    for name, target in links.items():
        (out / name).symlink_to(target.resolve())
    people = [one for one in sorted(options.photographs.iterdir()) if len(list(one.iterdir())) > 1]
    pairs = ["10\t3"]
    for fold in range(10):
        own = [people[(3 * fold + k) % len(people)].name for k in range(4)]
        pairs += [f"{own[k]}\t1\t2" for k in range(3)]
        pairs += [f"{own[k]}\t1\t{own[k + 1]}\t2" for k in range(3)]
    (out / "pairs.txt").write_text("\n".join(pairs), encoding="utf-8")
    share(out, people)
    call(out, "pack people data/people --detector yunet.onnx")
    call(out, "embed data/people --backbone B --out mine")
    data = FaceDataset.open(out / "data/people")
    names = [data.source(index) for index in range(data.num_images)]
    mine = {"embedding": np.load(out / "mine/embedding.npy"), "label": data.label}
    for name in ("mine.npz", "embeddings.npz"):
        np.savez(out / name, path=np.array(names), **mine)
    call(out, "corrupt mine.npz --flip 0.1 --out known.npz")
    first = np.unique(data.label, return_index=True)[1]
    kept = np.zeros(data.num_rows, np.bool_)
    kept[data.row[np.concatenate([first, first + 1])]] = True
    LabelOverlay.make(data.base_label, kept).save(out / "trusted.npz")
    for suffix in ("rec", "idx"):
        (out / f"train.{suffix}").symlink_to(out / f"data/people/train.{suffix}")


def share(out: Path, people: list[Path]) -> None:
    """Photographs as a gallery with probes, and as two sets of different people."""
    header, *lines = (out / "lfw_5pts.csv").read_text(encoding="utf-8").splitlines()
    for half, number in (("half_a", ""), ("half_b", "2")):
        chosen = people[half == "half_b" :: 2]
        points = [line for line in lines if line.split("/")[0] in {one.name for one in chosen}]
        (out / f"points{number}.csv").write_text("\n".join([header, *points]), encoding="utf-8")
        names = [line.split(",")[0] for line in points]
        groups = ["image,ethnicity", *(f"{name},{i % 3}" for i, name in enumerate(names))]
        (out / f"ethnicity{number}.csv").write_text("\n".join(groups), encoding="utf-8")
        for one in chosen:
            (out / half).mkdir(exist_ok=True)
            (out / half / one.name).symlink_to(one.resolve())
    for one in people:
        images = sorted(one.iterdir())
        for folder, own in (("gallery", images[::2]), ("probe", images[1::2])):
            (out / folder / one.name).mkdir(parents=True)
            for image in own:
                (out / folder / one.name / image.name).symlink_to(image.resolve())


def make_named(out: Path, command: str) -> None:
    """Make what a command names and nobody has made yet."""
    for name, maker in MADE.items():
        if name in command and not (out / name).exists():
            make_named(out, maker.replace(name, ""))  # what that takes
            call(out, maker)


def call(out: Path, words: str) -> None:
    """Run a command that prepares."""
    subprocess.run([*COMMAND, *words.split()], cwd=out, check=True, capture_output=True)


def run(out: Path, command: str) -> tuple[int, str]:
    """Status and what was said."""
    words = shlex.split(command)
    if words[0] == "torchrun":
        program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        words = [*program, *words[words.index("-m") :]]
    else:
        words = [*COMMAND, *words[1:]]
    words += [key for name, keys in CHANGED.items() if name in words for key in keys]
    if "review" in words:
        return reviewed(out, words)
    done = subprocess.run(words, cwd=out, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def reviewed(out: Path, words: list[str]) -> tuple[int, str]:
    """Open a review, read its address, end it."""
    with subprocess.Popen(
        [*words, "--no-open"], cwd=out, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "http://127.0.0.1" in line:
                process.send_signal(signal.SIGINT)
    return process.returncode, said


def main() -> int:
    """Prepare, run, print."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("pages", type=Path, nargs="+")
    for name in ("photographs", "landmarks", "bin", "detector", "backbone", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", default="", help="commands that match this expression")
    options = parser.parse_args()
    prepare(options.out, options)
    failed = 0
    for page in options.pages:
        print(page)
        for command in commands(page):
            if not re.search(options.only, command):
                continue
            make_named(options.out, command)
            begun = time.perf_counter()
            status, said = run(options.out, command)
            print(f"  {status}  {time.perf_counter() - begun:5.1f} s  {command}", flush=True)
            if status or not said.strip():
                failed += 1
                print("      " + "\n      ".join(said.strip().splitlines()[-4:]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
