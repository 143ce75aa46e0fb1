import os
from pathlib import Path

import pytest

from facetrain.core.plain_file import read_plain


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"x\r\n")
    assert read_plain(file) == b"x\r\n"
    os.mkfifo(pipe)
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (pipe, tmp_path, tmp_path / "device"):
        with pytest.raises(OSError, match="it is no plain file"):
            read_plain(path)
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "none")
