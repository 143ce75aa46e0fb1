"""What the system refuses is a message with its status; a fault of ours stays an exception."""

import errno
import os
from pathlib import Path

import pytest

from facetrain.core.errors import BAD_INPUT, NOT_WRITABLE
from facetrain.core.system_error import as_user_error


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(errno.ENOSPC, "No space", "a/b"), NOT_WRITABLE, "a/b: must be writable, but No"),
        (OSError(errno.EFBIG, "too large"), NOT_WRITABLE, "output: must be writable, but File too"),
        (OSError(errno.EROFS, "ro", "t", None, "p/m.json"), NOT_WRITABLE, "p/m.json: must be wr"),
        (OSError(errno.EMFILE, "Too many open files", "s.rec"), BAD_INPUT, "ulimit -n"),
        (ImportError("x.so: cannot open: Too many open files"), BAD_INPUT, "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "unavailable"), BAD_INPUT, "ulimit -u"),
        (RuntimeError("can't start new thread"), BAD_INPUT, "ulimit -u"),
        (OSError(errno.ENOMEM, "no memory"), BAD_INPUT, "lower data.workers"),
        (OSError(errno.EIO, "Input/output error", "d/x"), BAD_INPUT, "d/x: must be a readable fi"),
        (OSError(errno.ELOOP, "links", "a\x1bb"), BAD_INPUT, r"a\x1bb: must be a readable file"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
         BAD_INPUT, "No usable temporary directory found in ['/tmp']; check it"),
        (OSError(errno.ENAMETOOLONG, "too long", 300 * "x"), BAD_INPUT,
         f"{80 * 'x'}...: must be a name that the file system takes, but has 300 characters"),
        (MemoryError(), BAD_INPUT, "there must be memory"),
        (RuntimeError("could not create a primitive"), BAD_INPUT, "lower the batch size"),
        (ValueError("array is too big; `arr.size"), BAD_INPUT, "must be memory for the work"),
        (ValueError("embedded null byte"), BAD_INPUT, "a file's name must not hold NUL"),
        (RuntimeError("CUDA out of memory. Tried"), BAD_INPUT, "lower the batch size"),
        (RuntimeError("unable to mmap: No space left: /torch_1 shm"), BAD_INPUT, "--shm-size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), BAD_INPUT,
         "a shard was cut short"),
    ],
)  # fmt: skip
def test_each_says_what_to_do(error: BaseException, status: int, words: str) -> None:
    found = as_user_error(error)
    assert found is not None
    assert words in str(found)
    assert found.exit_status == status


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), KeyError("x"), OSError("no number"), ValueError()]
)
def test_faults_of_ours_are_not_dressed_up(error: BaseException) -> None:
    assert as_user_error(error) is None


def test_a_real_refusal(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileNotFoundError) as caught:
        os.open(tmp_path / "no" / "file", os.O_RDONLY)
    assert f"{tmp_path}/no/file: must be a readable file, but No such" in str(
        as_user_error(caught.value)
    )


def test_a_file_that_is_closed_to_this_user_need_not_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only wants to read it; what is not there, or open, is refused for what is written."""
    (tmp_path / "in").touch()
    monkeypatch.setattr(os, "access", lambda path, _: os.path.basename(path) != "in")
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "in"))
    found = as_user_error(error)
    assert found is not None
    assert (found.exit_status, "in: must be readable, but Perm" in str(found)) == (BAD_INPUT, True)
    (tmp_path / "out").touch()
    for path in ("out", "new"):
        found = as_user_error(PermissionError(errno.EACCES, "denied", str(tmp_path / path)))
        assert found is not None
        assert found.exit_status == NOT_WRITABLE
