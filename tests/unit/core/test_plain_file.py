import os
from pathlib import Path

import pytest

from facetrain.core.errors import DataError
from facetrain.core.plain_file import read_plain
from facetrain.data.files.csv_file import csv_rows
from facetrain.data.files.lists import text_lines
from facetrain.data.sources.lst import list_lst


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


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="no holes that one could ask for")
def test_what_was_never_written_is_not_read_into_memory(tmp_path: Path) -> None:
    """A terabyte of zeros in a file of some kilobytes: at its end, and in its middle."""
    file = tmp_path / "list"
    for where, text in ((1 << 40, b""), (1 << 40, b"the end"), (1 << 20, b"the end")):
        file.write_bytes(b"begin" * 1000)
        with open(file, "rb+") as opened:
            opened.truncate(where)
            opened.seek(where)
            opened.write(text)
        if where == 1 << 20:  # as `cp --sparse=always` leaves of some zeros
            assert read_plain(file) == b"begin" * 1000 + bytes(where - 5000) + text
        else:
            with pytest.raises(OSError, match=r"10485\d\d MiB from byte \d+ on were never written"):
                read_plain(file)


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="no holes that one could ask for")
def test_nor_are_lists_and_tables(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("0\t0\ta.jpg\n")
    os.truncate(file, 1 << 40)
    for read in (
        list_lst,
        lambda path: text_lines(path, "a b"),
        lambda path: [*csv_rows(path, "")],
    ):
        with pytest.raises(DataError, match=r"list: must be .* were never written"):
            read(file)
