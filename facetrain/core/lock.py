"""One writer for each place: a lock that ends with its process, however that ends.

POSIX record locks, on purpose: unlike `flock` they are not inherited by forked loader workers,
which outlive a killed trainer by seconds and would keep the folder closed to the restart. They
also hold between machines on NFS.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from facetrain.core.artifact import not_writable
from facetrain.core.errors import OutputError, UserError
from facetrain.core.log import logger
from facetrain.core.run_folder import JOURNAL_FILE, MANIFEST_FILE
from facetrain.core.text import printable

_LOCK = ".lock"
_OWNED = (_LOCK, MANIFEST_FILE, JOURNAL_FILE)  # another job's, a finished stage, a review
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # what `atomic_path` names its temporaries
_held: dict[Path, int] = {}  # lock file -> the thread of this process that has it


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Create `folder` if need be and be its only writer inside the block.

    Taken again by the same thread, it is simply held. What killed writers left half-written in the
    folder is removed first, but in folders below that belong to other stages.

    Raises:
        UserError: another process has it; says which, on which machine, since when.
        OutputError: the folder cannot be made or written to.
    """
    with _locked(folder / _LOCK, folder):
        _sweep(folder, below=True)
        yield


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Be the only writer of the file `path`, which need not be there yet; as `folder_lock`.

    Raises:
        UserError: another process has it.
        OutputError: it is no file's name, or a device, pipe or socket, or its folder cannot be
            written to.
    """
    if not path.name:  # "", "." or "/"
        raise not_writable(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if _is_special(path):  # /dev/null, say, which renaming would take from the whole machine
        raise OutputError(
            f"{printable(path)}: must be a file, but is a device, pipe or socket; give another name"
        )
    with _locked(path.with_name(f".{path.name}{_LOCK}"), path):
        _sweep(path.parent, f".{path.name}.", below=False)
        yield


def _sweep(folder: Path, prefix: str = "", *, below: bool) -> None:
    """Remove leftovers whose name begins so; below too, but not in what has an owner of its own."""
    for child in list(folder.iterdir()):
        is_folder = child.is_dir() and not child.is_symlink()
        if _LEFTOVER.fullmatch(child.name) and child.name.startswith(prefix):
            if is_folder:
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink(missing_ok=True)
        elif below and is_folder and not any((child / name).exists() for name in _OWNED):
            _sweep(child, below=True)


def _is_special(path: Path) -> bool:
    """Whether there is something that is neither file nor folder, or stands for an open one."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    stands_for = os.path.dirname(os.path.abspath(path)) in ("/dev", "/dev/fd")
    return stands_for or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _locked(lock: Path, what: Path) -> Iterator[None]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(lock.parent, error) from None
    key = Path(os.path.realpath(lock))
    if _held.get(key) == threading.get_ident():
        yield
        return
    if key in _held:
        raise _taken(what, "another thread of this process")
    handle = _acquire(lock, what)
    _held[key] = threading.get_ident()
    try:
        yield
    finally:
        del _held[key]
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _acquire(lock: Path, what: Path) -> int | None:
    """A handle on the locked file; None where the file system knows no locks."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps two writers apart there
        return None
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise not_writable(what, error) from None
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _taken(what, holder) from None
            logger.warning(
                "%s: cannot be locked (%s); start no second command there", what, error.strerror
            )
            return None
        # Whoever had it may have removed the file between our opening and our locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                break
        os.close(handle)
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(sys.argv[1:2]),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name on it
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(who).encode(), 0)
    return handle


def _holder(handle: int) -> str:
    """Who has the lock, in words."""
    try:
        who = json.loads(os.pread(handle, 4096, 0))
        return printable(
            f"process {who['pid']} on {who['host']} ({who['command']}, since {who['since']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has not written its name yet


def _taken(what: Path, holder: str) -> UserError:
    return UserError(
        f"{printable(what)}: must have one writer at a time, but {holder} is writing there; "
        "wait for it, end it, or choose another --out"
    )
