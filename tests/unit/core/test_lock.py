"""Two writers of one place: the second is told who the first is, and death frees the lock."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facetrain.core.errors import OutputError, UserError
from facetrain.core.lock import file_lock, folder_lock

HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from facetrain.core.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    if sys.argv[2] == "fork":  # a loader's worker, which outlives the trainer
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
        print(worker.pid, flush=True)
    else:
        print(0, flush=True)
    time.sleep(60)
"""


def holder(folder: Path, mode: str = "alone") -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), mode], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    first, _ = holder(tmp_path)
    try:
        with pytest.raises(UserError) as caught, folder_lock(tmp_path):
            pass
    finally:
        first.kill()
        first.wait()
        first.stdout.close()  # type: ignore[union-attr]
    text = str(caught.value)
    assert f"process {first.pid} on {socket.gethostname()}" in text
    assert "one writer at a time" in text


def test_sigkill_frees_the_lock_though_a_forked_worker_lives_on(tmp_path: Path) -> None:
    first, worker = holder(tmp_path, "fork")
    first.send_signal(signal.SIGKILL)
    first.wait()
    try:
        os.kill(worker, 0)  # the control: it is alive
        with folder_lock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        first.stdout.close()  # type: ignore[union-attr]
    assert os.listdir(tmp_path) == []


def test_the_same_thread_may_take_it_again_and_another_may_not(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with folder_lock(tmp_path):
                pass
        except UserError as error:
            refused.append(str(error))

    with folder_lock(tmp_path):
        with folder_lock(tmp_path / "." / ".." / tmp_path.name):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "another thread of this process" in refused[0]
    with folder_lock(tmp_path):  # freed again
        pass


def test_leftovers_of_killed_writers_go_and_other_files_stay(tmp_path: Path) -> None:
    stage = tmp_path / "train"
    inner, foreign = stage / "distances", stage / "embed"
    for folder in (inner, foreign):
        folder.mkdir(parents=True)
    (foreign / ".lock").touch()
    gone = [stage / ".a.npy.01234567.tmp", inner / ".b.json.89abcdef.tmp"]
    stay = [stage / "a.tmp", stage / ".hidden.tmp", foreign / ".c.npy.01234567.tmp"]
    for path in (*gone, *stay):
        path.touch()
    (stage / ".folder.00000000.tmp" / "x").mkdir(parents=True)
    with folder_lock(stage):
        pass
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)
    assert not (stage / ".folder.00000000.tmp").exists()


def test_one_file_has_one_writer_too(tmp_path: Path) -> None:
    (tmp_path / ".f.onnx.01234567.tmp").touch()
    (tmp_path / ".other.onnx.01234567.tmp").touch()
    with file_lock(tmp_path / "f.onnx"), file_lock(tmp_path / "other2.onnx"):
        assert sorted(os.listdir(tmp_path)) == [
            ".f.onnx.lock", ".other.onnx.01234567.tmp", ".other2.onnx.lock"
        ]  # fmt: skip
    assert os.listdir(tmp_path) == [".other.onnx.01234567.tmp"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"file/out: must be writable, but Not a directory"),
        folder_lock(tmp_path / "file" / "out"),
    ):
        pass


def test_many_processes_never_hold_it_together(tmp_path: Path) -> None:
    """Each adds one to a number, without an atomic step but the lock; none is lost."""
    add = """
import sys, time
from pathlib import Path
from facetrain.core.errors import UserError
from facetrain.core.lock import folder_lock
folder, done = Path(sys.argv[1]), 0
while done < 20:
    try:
        with folder_lock(folder / "held"):
            number = int((folder / "number").read_text())
            time.sleep(0.0005)
            (folder / "number").write_text(str(number + 1))
            done += 1
    except UserError:
        time.sleep(0.0002)
"""
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", add, str(tmp_path)]
    start = time.monotonic()
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4, time.monotonic() - start
    assert (tmp_path / "number").read_text() == "80"
