"""A stage's folder: one job at a time, finished once, run again when what it left is damaged."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from facetrain.core.artifact import read_artifact
from facetrain.core.config import Config
from facetrain.core.errors import DataError, UserError
from facetrain.core.lock import folder_lock
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage


class Settings(Config):
    seed: int = 0


class Work:
    """Writes two files; counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, 0

    def __call__(self) -> Mapping[str, Any]:
        self.times += 1
        (self.folder / "below").mkdir(exist_ok=True)
        (self.folder / "numbers.npy").write_bytes(b"numbers")
        (self.folder / "below" / "more.json").write_bytes(b"{}")
        (self.folder / "log.jsonl").write_text(f"{self.times}\n")
        (self.folder / "picture.png").write_text(f"{self.times}\n")
        return {"n": 1}


def run(work: Work) -> Mapping[str, Any]:
    return run_stage("work", Settings(), {"a": "1"}, work.folder, Mesh.single(), work).metrics


def test_another_finished_stage_is_not_written_over(tmp_path: Path) -> None:
    """A slip in --out cost the training its manifest; a manifest alone is no stage."""
    work = Work(tmp_path / "stage")
    run(work)
    manifest = (work.folder / "manifest.json").read_bytes()

    def other(folder: Path) -> Mapping[str, Any]:
        stage = run_stage("other", Settings(), {}, folder, Mesh.single(), lambda: {"n": 2})
        return stage.metrics

    told = "must be a folder for the stage other, but holds the finished stage work; give another"
    with pytest.raises(UserError, match=told):
        other(work.folder)
    assert (work.folder / "manifest.json").read_bytes() == manifest
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/manifest.json").write_bytes(manifest)
    assert other(tmp_path / "elsewhere") == {"n": 2}


def test_every_file_it_left_is_verified_when_it_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(tmp_path / "stage")
    assert run(work) == run(work) == {"n": 1}
    assert work.times == 1
    artifact = read_artifact(work.folder)
    assert artifact is not None
    assert sorted(artifact.manifest["files"]) == ["below/more.json", "numbers.npy"]
    (work.folder / "log.jsonl").write_text("longer")  # for people, and written to afterwards
    (work.folder / "picture.png").unlink()
    run(work)
    assert work.times == 1
    damages = (
        lambda: (work.folder / "numbers.npy").write_bytes(b"Numbers"),
        lambda: (work.folder / "below" / "more.json").unlink(),
        lambda: (work.folder / "manifest.json").write_text("{}"),
        lambda: (work.folder / "manifest.json").write_text("{"),
    )
    for number, damage in enumerate(damages, 2):
        damage()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "facetrain"):
            assert run(work) == {"n": 1}
        assert work.times == number
        assert len(caplog.records) == 1


def test_whoever_takes_its_files_is_told_of_damage(tmp_path: Path) -> None:
    work = Work(tmp_path)
    run(work)
    artifact = read_artifact(tmp_path)
    assert artifact is not None
    artifact.verify()
    (tmp_path / "numbers.npy").write_bytes(b"numbers ")
    artifact.verify("below/more.json")
    for names in ((), ("numbers.npy",)):
        with pytest.raises(DataError, match=r"numbers\.npy: must be as the stage work left it"):
            artifact.verify(*names)
    with pytest.raises(DataError, match="is not among the files it left"):
        artifact.verify("other")


def test_a_changed_number_of_the_manifest_is_damage(tmp_path: Path) -> None:
    run(Work(tmp_path))
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"n": 1', '"n": 2'))
    with pytest.raises(DataError, match=r"manifest\.json: must be as it was written.*run the"):
        read_artifact(tmp_path)


def test_two_jobs_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second comes while the first works; a finished stage is nobody's, and is skipped."""
    hold = (
        "import sys, time; from pathlib import Path; from facetrain.core.lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    work = Work(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(UserError, match=f"one writer at a time, but process {first.pid}"):
            run(work)
        assert work.times == 0
        first.kill()
    run(work)
    with folder_lock(tmp_path):
        run(work)
    assert work.times == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends ranks on Linux only")
def test_a_rank_ends_with_torchruns_agent() -> None:
    rank = (
        "import os, time; from facetrain.dist.mesh import Mesh\n"
        "Mesh.from_env('cpu'); print(os.getpid(), flush=True); time.sleep(60)"
    )
    agent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"
    )
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    with subprocess.Popen(
        [sys.executable, "-c", agent, rank], stdout=subprocess.PIPE, env={**os.environ, **place}
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout.read() == b""  # ends when the last who holds the pipe has ended
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
