"""One command in a process of its own, and how it ended."""

import contextlib
import dataclasses
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from facetrain.__main__ import run
from facetrain.core.errors import UserError
from facetrain.core.system_error import as_user_error

Receiver = Literal["command", "group", "worker"]
SECONDS = 180.0
"""A command that takes longer hangs: undisturbed, on a free core, the slowest takes 3."""
_OURS = ("Traceback (most recent call last)", "Exception ignored", "Fatal Python error")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """Exit status; -N of signal N."""
    said: str
    """Standard output and error together."""
    hangs: bool = False

    @property
    def traceback(self) -> bool:
        """Whether anything of Python's own reached the user."""
        return any(word in self.said for word in _OURS)


class Process:
    """One command, in a fork of this process: importing torch again would cost seconds.

    Args:
        argv: of `facetrain`; or `python` and a program that uses the package.
        folder: where it runs.
        limit: called first in the new process, to set its limits.
    """

    def __init__(
        self, argv: Sequence[str], folder: Path, limit: Callable[[], None] | None = None
    ) -> None:
        self._said = b""
        self._code: int | None = None
        # A pipe, since a limit on the length of files would silence a file.
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        # Python's own work after a fork would print one that falls into it, and go on.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.pid = os.fork()
        if self.pid == 0:
            _run(argv, folder, theirs, limit)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.close(theirs)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self._code is None:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            self._code = code if pid else None
        return self._code is None

    def signal(self, number: int, whom: Receiver = "command") -> None:
        """Send a signal to the command, with its workers as a terminal does, or to one of them."""
        with contextlib.suppress(OSError):
            if whom == "worker":
                children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
                for child in children[-1:]:
                    os.kill(int(child), number)
            else:
                (os.killpg if whom == "group" else os.kill)(self.pid, number)

    def said(self) -> str:
        """What it has said so far."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe, 1 << 16):
                self._said += chunk
        return self._said.decode(errors="replace")

    def wait(self, seconds: float | None = None) -> Ended:
        """How it ended; killed after `seconds` (`SECONDS`), with what it left running."""
        deadline, hangs = time.monotonic() + (seconds or SECONDS), False
        while self.running and not hangs:
            self.said()
            time.sleep(0.002)
            hangs = time.monotonic() > deadline
        self.signal(signal.SIGKILL, "group")
        if self._code is None:
            _, self._code = os.waitpid(self.pid, 0)
        said = self.said()
        os.close(self._pipe)
        return Ended(os.waitstatus_to_exitcode(self._code), said, hangs)


def _run(argv: Sequence[str], folder: Path, pipe: int, limit: Callable[[], None] | None) -> None:
    """Be the command, and never return."""
    status = 99
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(pipe, stream)
        # Not those that a test's own capture put in their place.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        torch.set_num_threads(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if limit is not None:
            limit()
        _use(argv[1]) if argv[0] == "python" else run(list(argv))
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        status = 130  # between this process's start and the command's own
    except BaseException:
        with contextlib.suppress(BaseException):
            os.write(2, traceback.format_exc().encode())
        status = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _use(program: str) -> None:
    """Run a program as a user would write it, for whom what is wrong has classes of its own."""
    try:
        exec(program, {})
    except (UserError, OSError, MemoryError) as error:
        known = error if isinstance(error, UserError) else as_user_error(error)
        sys.exit(known.exit_status if known else 2)


def call(argv: Sequence[str], folder: Path, limit: Callable[[], None] | None = None) -> Ended:
    """Run a command to its end; a review until it serves, and then Ctrl-C, which ends it well."""
    process = Process(argv, folder, limit)
    if argv[0] != "review":
        return process.wait()
    deadline = time.monotonic() + SECONDS
    while process.running and "http://" not in process.said() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.signal(signal.SIGINT)
    ended = process.wait()
    return dataclasses.replace(ended, status=0) if ended.status == 130 else ended
