"""What an image library prints while it decodes, caught so that it can be told whose image it was.

libjpeg, libtiff and their kin write their warnings to the process's stderr and nowhere else,
without a name: "Corrupt JPEG data: premature end of data segment". The file descriptor is turned
aside while an image is decoded, or a batch of them, and what was written there is read back.
"""

import contextlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")

_LIBRARY_LINE = re.compile(
    r"\[ *(WARN|ERROR|FATAL|INFO):|libpng |Corrupt JPEG|Premature end|Invalid |Inconsistent "
    r"|Unknown |Unsupported |Warning: |Caution: |Application transferred"
)
_OPENCV_PREFIX = re.compile(r"\[ *\w+:\d+@[\d.]+\] global \S+ (\w+ (imdecode_\(''\): )?)?")
_STDERR = 2


def _file() -> io.FileIO:
    """In memory: on a full disk what is printed would be lost, and its image not be suspect."""
    if hasattr(os, "memfd_create"):  # Linux
        return io.FileIO(os.memfd_create("printed"), "r+")
    return tempfile.TemporaryFile(buffering=0)


class _Capture:
    """A file that takes the place of this process's stderr, for one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.capturing = False  # by the thread that holds the lock
        self.file = _file()  # for the process's life

    def run(self, function: Callable[[], ResultT]) -> tuple[ResultT, bytes]:
        with self.lock:
            if self.capturing:
                return function(), b""
            kept = os.dup(_STDERR)
            os.dup2(self.file.fileno(), _STDERR)
            self.capturing = True
            try:
                result = function()
            finally:
                self.capturing = False
                os.dup2(kept, _STDERR)
                os.close(kept)
            if os.fstat(self.file.fileno()).st_size == 0:
                return result, b""
            self.file.seek(0)
            printed = self.file.read()
            self.file.truncate(0)
            self.file.seek(0)
            return result, printed


_captures: dict[int, _Capture] = {}  # by process: forked workers must not share a file's position


def with_warnings(function: Callable[[], ResultT]) -> tuple[ResultT, str]:
    """The result of `function`, and what image libraries printed meanwhile: one line, or "".

    Of nested calls only the outer one gets the text. What another
    thread wrote to stderr at that moment is written there after all. Where stderr is closed, or no
    file can be made, the function is only called.
    """
    process = os.getpid()
    capture = _captures.get(process)
    if capture is None:
        try:
            capture = _captures.setdefault(process, _Capture())
            os.close(os.dup(_STDERR))
        except OSError:
            return function(), ""
    result, printed = capture.run(function)
    if not printed:
        return result, ""
    words: list[str] = []
    others: list[str] = []
    for line in printed.decode(errors="replace").splitlines(keepends=True):
        (words if _LIBRARY_LINE.match(line) or not line.strip() else others).append(line)
    if others:
        with contextlib.suppress(OSError):
            os.write(_STDERR, "".join(others).encode(errors="replace"))
    return result, _shortened(words)


def _shortened(lines: list[str]) -> str:
    """The first message, without OpenCV's time and source line."""
    first = next((line.strip() for line in lines if line.strip()), "")
    return _OPENCV_PREFIX.sub("", first)[:200]
