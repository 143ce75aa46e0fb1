"""Reading files that others brought: no pipes, which would block, and no endless devices."""

import errno
import stat
from pathlib import Path


def read_plain(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: there is none, it cannot be read, or it is a pipe, socket, device or folder.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return path.read_bytes()
