"""How seconds, memory and disk of each stage grow with the number of images.

    python -m tools.benchmarks.growth --images 10000 100000 1000000 --folder F --json growth.json

Each stage is one process of the command line, on a set that is made for it: identities of 20 images
in the mean (or `--identity-images`), 128 numbers an image, as alike as those of faces
(tools/benchmarks/synthetic_embedding.py), 30 % of the labels wrong, and as the images a few
thousand small rendered faces over and over, by hard links. Embeddings are given, so the cleaner has
something to find, and `f1` says how well it did; the stage `embed` is measured apart, with a small
network whose numbers nobody uses. What is in F of an earlier call is used again, so `review`,
`report` and `write` can be measured by themselves on a cleaning that is drawn at random
(tools/benchmarks/fake_clean_run.py).

Processor seconds are of a process and its workers; `own` is the most memory that these held of
their own at once (anonymous and shared, looked up ten times a second), `resident` the most that one
of them held with the pages of mapped files, which the system can take back.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools.benchmarks.common import ROOT, command_of, make_parser, markdown_table, memory_mib

STAGES = ("pack", "embed", "graph", "clean", "clean without the GCN", "review", "report", "write")
CLEANINGS = ("clean", "clean without the GCN")
GRAPH = ("num_neighbours=40", "recall_target=0.8")
"""What the cleaner reads of a graph, and what it needs of it (docs/benchmarks/growth.md)."""
SIZE, POOL, PEOPLE = 32, 2_000, 100
CHILD = "--prepare"
_RECIPE = """\
data: {{path: {data}}}
model: {{name: small, image_size: {size}, embedding_size: 128, width: 16}}
train: {{epochs: 1}}
clean: {{}}
"""


def prepare(folder: Path, num_images: int, identity_images: int) -> None:
    """Write `images/`, `backbone.safetensors`, `recipe.yaml` and `run/embed/` below `folder`."""
    import numpy as np
    import torch

    from facetrain.core.artifact import write_manifest
    from facetrain.data.dataset import FaceDataset
    from facetrain.data.noise.plant import NoiseConfig, plant
    from facetrain.data.synthetic import SyntheticConfig, write_synthetic
    from facetrain.embedding.embed import EmbedConfig
    from facetrain.models.backbone import ModelConfig, build_backbone
    from facetrain.models.weights import save_backbone
    from tools.benchmarks.synthetic_embedding import (
        FACES_SPECTRUM,
        FACES_TAIL,
        FACES_WITHIN,
        write_embedding,
    )

    pool = folder.parent / "pool"
    if not pool.is_dir():
        each = POOL // PEOPLE
        faces = SyntheticConfig(
            num_identities=PEOPLE, min_images=each, max_images=each, size=SIZE, difficulty=0.3
        )
        write_synthetic(pool.with_name("rendered"), faces, quiet=True)
        rendered = FaceDataset.open(pool.with_name("rendered"))
        pool.mkdir()
        for image in range(rendered.num_images):
            (pool / f"{image}.jpg").write_bytes(rendered.encoded(image))
    folder.mkdir(parents=True, exist_ok=True)
    model = ModelConfig(name="small", image_size=SIZE, embedding_size=128, width=16)
    torch.manual_seed(0)
    save_backbone(build_backbone(model), model, folder / "backbone.safetensors")
    (folder / "recipe.yaml").write_text(_RECIPE.format(data=folder / "run/data", size=SIZE))
    embedded, raw = folder / "run" / "embed", folder / "embedding.npy"
    embedded.mkdir(parents=True)
    identity = write_embedding(
        raw, num_images, 128, "float16", FACES_SPECTRUM, torch.device("cpu"),
        images=identity_images, within=FACES_WITHIN, tail=FACES_TAIL,
    )  # fmt: skip
    noisy = plant(identity, NoiseConfig(flip=0.15, structured=0.15))
    order = np.argsort(noisy.label, kind="stable")  # as they are packed: by class
    label = np.unique(noisy.label[order], return_inverse=True)[1]
    np.save(embedded / "embedding.npy", np.load(raw)[order])
    np.save(embedded / "norm.npy", np.ones(num_images, np.float32))
    np.save(embedded / "label.npy", label.astype(np.int64))
    np.save(embedded / "row.npy", np.arange(num_images))
    np.save(folder / "is_clean.npy", noisy.is_clean[order])
    raw.unlink()
    write_manifest(embedded, "embed", EmbedConfig(), {}, {}, started=time.time(), world_size=1)
    files = sorted(pool.iterdir())
    for number, (given, person) in enumerate(zip(label, identity[order], strict=True)):
        of_class = folder / "images" / f"{given:07d}"
        of_class.mkdir(parents=True, exist_ok=True)
        os.link(files[(37 * int(person) + number) % len(files)], of_class / f"{number:07d}.jpg")


def stage_command(stage: str, folder: Path) -> tuple[list[str], Path | None]:
    """Arguments of the command line, and the folder that it leaves."""
    run, posterior = folder / "run", folder / "posterior"
    recipe = str(folder / "recipe.yaml")
    inputs = ["--embeddings", str(run / "embed"), "--graph", str(run / "graph")]
    commands: dict[str, tuple[list[Any], Path | None]] = {
        "pack": (["pack", folder / "images", run / "data", "--size", SIZE], run / "data"),
        "embed": (
            ["embed", run / "data", "--backbone", folder / "backbone.safetensors", "--out",
             folder / "embedded"], folder / "embedded",
        ),
        "graph": (
            ["graph", "--embeddings", run / "embed", "--out", run / "graph", *GRAPH], run / "graph",
        ),
        "clean": (["clean", recipe, "--out", run / "clean", *inputs], run / "clean"),
        "clean without the GCN": (
            ["clean", recipe, "--out", posterior / "clean", *inputs, "clean.gcn=false"],
            posterior / "clean",
        ),
        "review": (["review", run, "--no-open"], None),
        "report": (["report", run], None),
        "write": (["write", run, "--format", "rec", "--out", folder / "written"],
                  folder / "written"),
    }  # fmt: skip
    words, out = commands[stage]
    return [sys.executable, "-m", "facetrain", *map(str, words)], out


def tree(process: int) -> Iterator[int]:
    """A process and all that it started."""
    yield process
    for thread in Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from tree(int(child))


class Watch(threading.Thread):
    """Looks up the memory of a process and its workers until it is stopped."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.own_mib, self.stopped = process, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        """Until told to stop."""
        while not self.stopped.wait(0.1):
            try:
                held = [
                    memory_mib(what, one)
                    for one in tree(self.process)
                    for what in ("RssAnon", "RssShmem")
                ]
            except (OSError, AssertionError):  # one of them has just ended
                continue
            self.own_mib = max(self.own_mib, sum(held))


def opened(process: subprocess.Popen[str]) -> float:
    """Seconds until a review has given its address, its first identities and their faces."""
    started = time.perf_counter()
    assert process.stdout
    address = urlsplit(process.stdout.readline().split()[-1])
    connection = http.client.HTTPConnection(address.netloc, timeout=60)

    def content(path: str) -> bytes:
        connection.request("GET", address.path + path)
        response = connection.getresponse()
        found = response.read()
        assert response.status == 200, found
        return found

    identities = json.loads(content("api/identities?anew=1"))["identities"]
    for face in json.loads(content(f"api/identity/{identities[0]['id']}"))["faces"]:
        content(f"face/{face['row']}")
    return time.perf_counter() - started


def disk_mib(folder: Path) -> float:
    """What the files of a folder take."""
    return sum(path.lstat().st_size for path in folder.rglob("*")) / 2**20


def f1_of_noise(folder: Path, cleaned: Path) -> float | None:
    """How well the planted noise was found."""
    import numpy as np

    from facetrain.data.cleaning_result import CleaningResult
    from facetrain.metrics.noise import noise_detection

    result = CleaningResult.load(cleaned / "clean.npz")
    is_clean = np.load(folder / "is_clean.npy")
    return noise_detection(result.clean_probability, result.kept, is_clean).f1


def measure(stage: str, folder: Path, log: Path) -> dict[str, Any]:
    """One stage as one process."""
    command, out = stage_command(stage, folder)
    started = time.perf_counter()
    with open(log, "w") as file:
        pipe = subprocess.PIPE if stage == "review" else file
        process = subprocess.Popen(command, stdout=pipe, stderr=file, text=True)
        watch = Watch(process.pid)
        seconds = None
        if stage == "review":
            seconds = opened(process)
            process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(process.pid, 0)
        watch.stopped.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()}")
    found = {"f1": f1_of_noise(folder, out)} if out is not None and stage in CLEANINGS else {}
    return found | {
        "seconds": round(seconds or time.perf_counter() - started, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "own_mib": round(watch.own_mib),
        "resident_mib": round(usage.ru_maxrss / 1024),
        "disk_mib": None if out is None else round(disk_mib(out), 1),
    }


def table(found: dict[str, dict[str, Any]], sizes: Sequence[int]) -> str:
    """Markdown: a row a stage and size; growth is of processor seconds an image, to the smaller."""
    header = ["stage", "images", "seconds", "processor s", "own memory, MiB", "resident, MiB"]
    header += ["disk, MiB", "an image, of the smaller set's"]
    rows = []
    for stage in STAGES:
        before = None
        for size in sizes:
            numbers = found.get(f"{stage} {size}")
            if numbers is None:
                continue
            cost = numbers["processor_seconds"] / size
            growth = "" if before is None else f"{cost / before:.2f}"
            disk = "" if numbers["disk_mib"] is None else f"{numbers['disk_mib']:,.0f}"
            rows.append(
                [
                    stage, f"{size:,}", f"{numbers['seconds']:,.1f}",
                    f"{numbers['processor_seconds']:,.1f}", f"{numbers['own_mib']:,}",
                    f"{numbers['resident_mib']:,}", disk, growth,
                ]
            )  # fmt: skip
            before = cost
    return markdown_table(header, rows)


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--identity-images", type=int, default=20, help="in the mean")
    parser.add_argument("--folder", type=Path, required=True, help="for the sets and what is left")
    parser.add_argument(CHILD, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    if options.prepare:
        prepare(folder / str(options.prepare), options.prepare, options.identity_images)
        return
    found: dict[str, dict[str, Any]] = {}
    if options.json is not None and options.json.is_file():
        found = json.loads(options.json.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for size in sorted(options.images):
        if not (folder / str(size)).is_dir():
            made = [CHILD, str(size), "--identity-images", str(options.identity_images)]
            command = command_of("tools.benchmarks.growth", "--folder", folder, *made)
            subprocess.run(command, cwd=ROOT, check=True)
        for stage in options.stages:
            numbers = measure(stage, folder / str(size), folder / "log.txt")
            found[f"{stage} {size}"] = numbers
            print(f"{stage}, {size:,} images: {numbers}", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(found, indent=1))
    print(table(found, sorted({int(name.split()[-1]) for name in found})))


if __name__ == "__main__":
    main()
