"""What the system refused, as a message for whoever can do something about it."""

import errno
import os

from facetrain.core.errors import CLOSED, OutputError, UserError
from facetrain.core.text import printable

_OUTPUT = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    # a file where a folder should be, or a folder where a file
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip
_MEMORY = (
    "out of memory", "not enough memory", "can't allocate memory", "could not allocate",
    "could not create a primitive",  # all that oneDNN says
    "array is too big", "Storage size calculation overflowed",  # beyond 64 bits of bytes
)  # fmt: skip
_AGAIN = "then run the same command again: finished work is kept"


def as_user_error(error: BaseException) -> UserError | None:
    """The message of an error that the system caused; None for any other, a fault of ours.

    Readers and writers name their file themselves. This is for what passes them by: limits on
    processes, files and memory, and writes between them.
    """
    text = f"{type(error).__name__}: {error}"
    short = isinstance(error, RuntimeError | ValueError) and any(words in text for words in _MEMORY)
    if short or isinstance(error, MemoryError):
        return UserError(
            f"there must be memory for the work, but {error or 'there was not'}; lower the "
            f"batch size or data.workers, or raise the limit, {_AGAIN}"
        )
    if isinstance(error, ValueError) and "embedded null" in text:
        return UserError("a file's name must not hold NUL, but one that came does; give another")
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return UserError(
            f"every loader worker must live as long as the run, but one died: {error}; killed for "
            "memory: lower data.workers; by a bus error: a shard was cut short while it was read, "
            "or a container has too little /dev/shm (docker run --shm-size=8g, or data.workers=0);"
            " run the same command to continue"
        )
    if isinstance(error, RuntimeError) and ("shm" in text or "shared memory" in text):
        return UserError(
            f"there must be room in /dev/shm for what processes share, but {error}; give the "
            f"container more (docker run --shm-size=8g) or set data.workers=0, {_AGAIN}"
        )
    code = error.errno if isinstance(error, OSError) else None
    path = _path(error) if isinstance(error, OSError) else ""
    if code in (errno.EMFILE, errno.ENFILE) or os.strerror(errno.EMFILE) in text:
        return UserError(
            f"{path or 'a file'}: must be open beside what is open already, but the limit is "
            f"reached ({os.strerror(code or errno.EMFILE)}); raise it with ulimit -n, or lower "
            f"data.workers, {_AGAIN}"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        code = errno.EAGAIN
    if code in (errno.EAGAIN, errno.ENOMEM):
        return UserError(
            f"there must be room for one more process or file, but {os.strerror(code)}; raise "
            f"ulimit -u, free memory, or lower data.workers, {_AGAIN}"
        )
    if isinstance(error, OSError) and code in CLOSED and _is_unread(error.filename):
        return UserError(
            f"{path}: must be readable, but {os.strerror(code)}; make it readable, {_AGAIN}"
        )
    if code == errno.ENAMETOOLONG:  # to be read or to be written: nothing can have this name
        return UserError(
            f"{path[:80]}...: must be a name that the file system takes, but has {len(path)} "
            "characters; give a shorter one"
        )
    if code in _OUTPUT:
        return OutputError(
            f"{path or 'output'}: must be writable, but {os.strerror(code)}; free space or choose "
            f"another --out, {_AGAIN}"
        )
    if code is not None and isinstance(error, OSError):
        return UserError(
            f"{path or 'a file'}: must be a readable file, but {error.strerror}; check it"
        )
    return None


def _is_unread(path: object) -> bool:
    """Whether a file is there, and closed to this user."""
    return isinstance(path, str | bytes) and os.path.isfile(path) and not os.access(path, os.R_OK)


def _path(error: OSError) -> str:
    """What it is about: of a renaming, what it should become."""
    path = error.filename2 or error.filename
    return (
        "" if path is None else printable(os.fsdecode(path) if not isinstance(path, int) else path)
    )
