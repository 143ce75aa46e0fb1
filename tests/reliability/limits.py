"""What a machine may be short of: disk, descriptors, memory, processes, permission."""

import contextlib
import ctypes
import dataclasses
import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_NOBODY = 65534
_PLENTY = 1 << 30
_READS_ALL = 0b1111  # CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a command has to do with.

    Attributes:
        what: in words.
        take: called in the command's process before it starts.
        statuses: that it may end with.
        lift: called before the same command runs again, undisturbed.
    """

    what: str
    take: Callable[[], None]
    statuses: tuple[int, ...] = (0, 2, 4)
    lift: Callable[[], None] = lambda: None


@contextlib.contextmanager
def drawn(folder: Path, chance: random.Random, leaves: list[Path]) -> Iterator[Limit]:
    """A limit for a command in `folder`; the last three only where this process is root.

    Args:
        leaves: files and folders that the command writes to, some of which may be closed to it.
    """
    kinds = [_length, _descriptors, _memory, _processor]
    if os.geteuid() == 0:
        kinds += [_processes]
        if can_mount():
            kinds += [_disk, _scratch]
        if leaves:
            kinds.append(functools.partial(_closed, leaves=leaves))
    with chance.choice(kinds)(folder, chance) as limit:
        yield limit


@contextlib.contextmanager
def _length(folder: Path, chance: random.Random) -> Iterator[Limit]:
    """A bound on the length of files: a quota, as the kernel tells of it."""
    bound = chance.choice((0, 100, 1000, 5000, 20_000))
    take = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (bound, bound))
    yield Limit(f"files of {bound} bytes", take, (0, 4))


@contextlib.contextmanager
def _descriptors(folder: Path, chance: random.Random) -> Iterator[Limit]:
    bound = chance.randint(4, 24)
    take = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (bound, bound))
    yield Limit(f"{bound} descriptors", take)


@contextlib.contextmanager
def _memory(folder: Path, chance: random.Random) -> Iterator[Limit]:
    """Some memory beyond what it starts with."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = chance.randint(0, 300) << 20
    bound = pages * resource.getpagesize() + room
    take = functools.partial(resource.setrlimit, resource.RLIMIT_AS, (bound, bound))
    yield Limit(f"{room >> 20} MiB more", take)


@contextlib.contextmanager
def _processor(folder: Path, chance: random.Random) -> Iterator[Limit]:
    """A second of processor time (a process's own, of which a fork has used none), as a queue's."""
    last = chance.choice((1, 2))  # SIGKILL comes with the first second, or after SIGXCPU
    take = functools.partial(resource.setrlimit, resource.RLIMIT_CPU, (1, last))
    ends = (0, 2, -signal.SIGXCPU, -signal.SIGKILL)
    yield Limit(f"1 second, at most {last}, of a processor", take, ends)


@contextlib.contextmanager
def _processes(folder: Path, chance: random.Random) -> Iterator[Limit]:
    """Few processes and threads; root is not bound by that, so as another user."""
    bound = chance.randint(1, 6)

    def take() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))
        _be_nobody(_READS_ALL)

    yield Limit(f"{bound} processes", take)


@contextlib.contextmanager
def _closed(folder: Path, chance: random.Random, leaves: list[Path]) -> Iterator[Limit]:
    """A file or folder without its permissions, for a process whom they bind."""
    path = chance.choice(leaves)
    former = path.stat().st_mode
    mode = former & chance.choice((0, 0o555, 0o333))
    path.chmod(mode)

    def lift() -> None:
        with contextlib.suppress(FileNotFoundError):
            path.chmod(former)

    yield Limit(f"{path.relative_to(folder)} closed ({mode & 0o777:o})", _be_nobody, lift=lift)


@contextlib.contextmanager
def _disk(folder: Path, chance: random.Random) -> Iterator[Limit]:
    """A disk of its own with little room left, in bytes or in files."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={_PLENTY}", "tmpfs", folder)
    try:
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(aside)
        state = os.statvfs(folder)
        if chance.random() < 0.2:
            room = chance.randint(1, 12)
            what, left = f"room for {room} files", f"nr_inodes={_used_files(state) + room}"
        else:
            room = chance.choice((0, 1, 2, 8, 20, 60, 120)) * state.f_frsize
            used = (state.f_blocks - state.f_bfree) * state.f_frsize
            what, left = f"a disk with {room} bytes left", f"size={used + room}"
        _mount("-o", f"remount,{left}", folder)
        plenty = f"remount,size={_PLENTY},nr_inodes=100000"
        yield Limit(what, lambda: None, (0, 4), lambda: _mount("-o", plenty, folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def _scratch(folder: Path, chance: random.Random) -> Iterator[Limit]:
    """A TMPDIR that fills up at once, beside a disk with room."""
    scratch = folder.with_name("scratch")
    scratch.mkdir()
    pages = chance.randint(1, 4)  # the first shows Python that it can be written to
    _mount("-t", "tmpfs", "-o", f"size={pages * resource.getpagesize()}", "tmpfs", scratch)

    def take() -> None:
        os.environ["TMPDIR"] = str(scratch)
        tempfile.tempdir = None

    try:
        yield Limit(f"a TMPDIR of {pages} pages", take)
    finally:
        subprocess.run(["umount", "--lazy", str(scratch)], check=True)
        scratch.rmdir()


def _used_files(state: os.statvfs_result) -> int:
    return state.f_files - state.f_ffree


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount a disk."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def _be_nobody(capabilities: int = 0) -> None:
    """Go on without root's powers but these, so that permissions and limits bind."""
    libc = ctypes.CDLL(None, use_errno=True)
    keep_capabilities = 8
    libc.prctl(keep_capabilities, 1, 0, 0, 0)
    if capabilities:  # another user: root's own processes are not counted
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    version, own = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version, own)
    data = (ctypes.c_uint32 * 6)(capabilities, capabilities)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")
