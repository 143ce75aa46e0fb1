"""Worker processes: quiet, and gone when their parent is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WAIT = """
import sys, time
from facetrain.data.images.workers import ordered_map

def slow(number):
    time.sleep(0.2)
    return number

if __name__ == "__main__":
    for number in ordered_map(slow, range(1000), 2):
        print(number, flush=True)
"""


def test_workers_say_nothing_when_a_terminal_interrupts_all(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole group: one traceback, of the parent, and no orphans."""
    (tmp_path / "wait.py").write_text(WAIT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "wait.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1
    until = time.monotonic() + 30
    while _group_lives(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _group_lives(process.pid)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
