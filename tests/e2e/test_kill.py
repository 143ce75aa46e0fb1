"""Kill -9 at any instant, start again: the same run, also at another number of processes."""

import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facetrain.cli import main
from facetrain.data.shards.recordio import RecordHeader, ShardWriter, pack_record
from facetrain.engine.meter import read_run_log

NUM_CLASSES, IMAGES_PER_CLASS, SIZE = 12, 24, 32
NUM_STEPS = 36  # 9 epochs of 288 // 72
TIMEOUT_SECONDS = 120.0  # a deadlock, not a slow machine

# Starting Python with torch costs seconds; a fork of a server that has it costs none.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["facetrain.pipeline", "tests.e2e.test_kill"])

RECIPE = """
data: {{path: {data}, workers: 1}}
model: {{name: small, image_size: 32, embedding_size: 32, width: 8}}
head: {{scale: 8, cosine_margin: 0.1}}
augment: {{flip_probability: 0.5, translate: 0.05}}
optimizer: {{learning_rate: 0.01}}
schedule: {{name: cosine}}
train: {{batch_size: 72, epochs: 9, checkpoint_every: 3, log_every: 1}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise patterns, one a class, under further noise: learnable within 36 steps."""
    folder = tmp_path_factory.mktemp("kill")
    generator = np.random.default_rng(0)
    with ShardWriter(folder / "train.rec") as writer:
        for label in range(NUM_CLASSES):
            pattern = generator.normal(128, 40, (SIZE, SIZE, 3))
            for sample in range(IMAGES_PER_CLASS):
                image = (pattern + generator.normal(0, 30, pattern.shape)).clip(0, 255)
                done, encoded = cv2.imencode(".png", image.astype(np.uint8))
                assert done
                key = label * IMAGES_PER_CLASS + sample
                header = RecordHeader(0, np.array([label], np.float32), key, 0)
                writer.write(key, pack_record(header, encoded.tobytes()))
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "train.rec"))
    return path


def train(arguments: list[str], environment: dict[str, str], errors: Path) -> None:
    """One rank, in a process of its own: `facetrain train` with its messages in a file."""
    os.environ.update(environment)
    with open(errors, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)  # the sums of a convolution depend on how many there are
    main(["train", *arguments])


def start(recipe: Path, out: Path, world_size: int = 1) -> list[ForkServerProcess]:
    """The ranks of `facetrain train`, in the environment torchrun would give them."""
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    if world_size > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        job = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment |= job
    ranks = []
    for rank in range(world_size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size > 1 else {}
        errors = out.with_name(f"{out.name}.{rank}.stderr")
        arguments = ([str(recipe), "--out", str(out)], {**environment, **place}, errors)
        ranks.append(SERVER.Process(target=train, args=arguments))
        ranks[-1].start()
    return ranks


def finish(ranks: list[ForkServerProcess], out: Path) -> None:
    for rank, process in enumerate(ranks):
        process.join(TIMEOUT_SECONDS)
        errors = out.with_name(f"{out.name}.{rank}.stderr")
        assert process.exitcode == 0, errors.read_text()[-2000:]


def kill_when(ranks: list[ForkServerProcess], reached: Callable[[], bool]) -> bool:
    """SIGKILL to every rank once `reached`; False when the run finished before."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not reached() and time.monotonic() < deadline:
        if ranks[0].exitcode is not None:
            break
        time.sleep(0.001)
    alive = ranks[0].exitcode is None
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.join()
    return alive


def losses(out: Path) -> dict[int, float]:
    """Step -> loss, each step told once."""
    entries = read_run_log(out / "log.jsonl")
    found = {entry["step"]: entry["loss"] for entry in entries}
    assert len(found) == len(entries), "a step is told twice"
    return found


def steps_done(out: Path) -> int:
    """Steps told so far by a run that may be writing."""
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def writes_checkpoint_after(out: Path, step: int) -> bool:
    """Whether a checkpoint of more than `step` steps is being written at this instant."""
    return any(int(path.name[-10:]) > step for path in (out / "checkpoints").glob(".step_*"))


def command_line(recipe: Path, out: Path) -> None:
    """The command as a user types it."""
    command = [sys.executable, "-m", "facetrain", "train", str(recipe), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> Path:
    out = recipe.parent / "undisturbed"
    command_line(recipe, out)
    assert sorted(losses(out)) == list(range(1, NUM_STEPS + 1))
    return out


def test_killed_at_random_instants_it_ends_with_the_same_bytes(
    recipe: Path, undisturbed: Path
) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    out = recipe.parent / "killed"
    first, write, late = chance.randint(0, 11), chance.randint(12, 20), chance.randint(22, 28)
    instants: list[Callable[[], bool]] = [
        lambda: steps_done(out) >= first,
        lambda: writes_checkpoint_after(out, write),
        lambda: steps_done(out) >= late,
    ]
    kills = 0
    for reached in instants:
        ranks = start(recipe, out)

        def a_moment_later(reached: Callable[[], bool] = reached) -> bool:
            now = reached()
            if now:
                time.sleep(chance.uniform(0, 0.01))
            return now

        kills += kill_when(ranks, a_moment_later)
    assert kills >= 2, f"the run was over before it could be killed (seed {seed})"
    finish(start(recipe, out), out)
    found, expected = (folder / "backbone.safetensors" for folder in (out, undisturbed))
    assert found.read_bytes() == expected.read_bytes(), f"seed {seed}"
    assert losses(out) == losses(undisturbed), f"seed {seed}"


def test_started_after_its_end_it_does_nothing(recipe: Path, undisturbed: Path) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        files = (path for path in undisturbed.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    command_line(recipe, undisturbed)
    assert state() == before


def test_killed_at_two_processes_it_resumes_at_one_and_at_three(
    recipe: Path, undisturbed: Path
) -> None:
    """Losses follow those of the undisturbed run at one process.

    Not to rounding: batch normalisation takes its statistics over a rank's own images (72, 36 or
    24 of a batch here); 0.15 and 0.21 were seen at one and at three. The same resumption agrees
    to 1e-5 in `tests/dist/test_engine.py`, where the backbone has no such statistics. The
    control: a resumption that began anew would be 1.4 away.
    """
    tolerance = 0.4
    two = recipe.parent / "two"
    assert kill_when(start(recipe, two, world_size=2), lambda: steps_done(two) >= 13)
    expected = losses(undisturbed)
    kept = range(1, 13)  # the checkpoint of step 12, or a later one, was written
    lost = range(13, 25)
    begun_anew = [abs(expected[step - 12] - expected[step]) for step in lost]
    assert sum(begun_anew) / len(lost) > 2 * tolerance
    resumed = [recipe.parent / "one_of_two", recipe.parent / "three_of_two"]
    for out in resumed:
        shutil.copytree(two, out)
    jobs = [start(recipe, out, world_size) for out, world_size in zip(resumed, (1, 3), strict=True)]
    for job, out in zip(jobs, resumed, strict=True):
        finish(job, out)
    for out in resumed:
        found = losses(out)
        assert sorted(found) == list(range(1, NUM_STEPS + 1))
        assert [found[step] for step in kept] == [losses(two)[step] for step in kept]
        differences = [abs(found[step] - expected[step]) for step in lost]
        assert sum(differences) / len(lost) < tolerance
