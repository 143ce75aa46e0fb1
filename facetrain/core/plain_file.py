"""Files that others brought, which may be none: a pipe is waited for, a device read for ever."""

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
