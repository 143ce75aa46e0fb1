"""Reading files that others brought: no pipes, which would block, and no endless devices."""

import errno
import os
import stat
from pathlib import Path

_LONGEST_HOLE = 1 << 26  # no text or image has 64 MiB of zeros in a row


def read_plain(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: there is none, it cannot be read, it is a pipe, socket, device or folder, or much
            of it was never written.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    with open(path, "rb") as file:
        refuse_hole(file.fileno(), path)
        return file.read()


def refuse_hole(handle: int, path: Path, longest: int = _LONGEST_HOLE) -> None:
    """Return if no more than `longest` bytes in a row of a file were never written.

    They take no room on the disk and read as zeros, so that a few bytes can be terabytes in memory.
    Where the file system does not tell, there are none.

    Raises:
        OSError: there are; names `path`.
    """
    if not hasattr(os, "SEEK_HOLE"):  # Windows
        return
    data, size = 0, os.fstat(handle).st_size
    while (hole := _next(handle, data, os.SEEK_HOLE, size)) < size:
        data = _next(handle, hole, os.SEEK_DATA, size)
        if data - hole > longest:
            text = f"{(data - hole) >> 20} MiB from byte {hole} on were never written"
            raise OSError(errno.EINVAL, text, str(path))
    os.lseek(handle, 0, os.SEEK_SET)


def _next(handle: int, after: int, what: int, size: int) -> int:
    """Where the next hole, or the next data, of a file begins; its size where none is."""
    try:
        return os.lseek(handle, after, what)
    except OSError:
        return size
