"""A tar as a source: whole to its end, or an error; nothing in it leads out or unfolds."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from helpers.sources import JPEG, as_tar, listed, tree

from facetrain.core.errors import DataError
from facetrain.data.sources import tar as source_tar


def test_a_tar_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    """At every block: less than the whole is never taken for the whole."""
    tar = as_tar(tree(tmp_path / "s", *(f"p{i}/1.jpg" for i in range(4))))
    content = tar.read_bytes()
    whole = len(content.rstrip(b"\0")) // 512 * 512 + 512  # where the end mark begins
    cut = tmp_path / "cut.tar"
    for length in range(0, whole + 1, 512):
        cut.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cut\.tar: must be a tar of identity folders"):
            listed(cut)
    cut.write_bytes(content[: whole + 1024])
    assert len(listed(cut).images) == 4
    for missing in (1, 511):  # bytes out of the last member's data, which nothing else would tell
        cut.write_bytes(content[: whole - 600] + content[whole - 600 + missing :])
        with pytest.raises(DataError, match=r"cut\.tar: must be a tar of identity folders"):
            listed(cut)


def test_a_damaged_header_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    tar = as_tar(tree(tmp_path / "s", *(f"p{i}/1.jpg" for i in range(4))))
    content = tar.read_bytes()
    with tarfile.open(tar) as archive:
        offsets = [member.offset for member in archive]
    for offset in offsets:
        damaged = bytearray(content)
        damaged[offset + 20] ^= 0x10  # in its name: the checksum is wrong
        tar.write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged|bad checksum"):
            listed(tar)
        damaged[offset : offset + 512] = bytes(512)  # a zeroed page looks like the end
        tar.write_bytes(damaged)
        with pytest.raises(DataError, match=r"goes on behind the end mark|must be a tar"):
            listed(tar)
    tar.write_bytes(content + content)
    with pytest.raises(DataError, match="two archives were joined"):
        listed(tar)


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A ustar header with any size field."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108], block[124 : 124 + len(size)] = b"0000644\0", size
    block[148:156], block[156:157], block[257:265] = b" " * 8, kind, b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "head",
    [
        header("a/1.jpg", (-512).to_bytes(12, "big", signed=True)),
        header("a/1.jpg", b"\x80" + (1 << 60).to_bytes(11, "big")),
        header("a/1.jpg", b"77777777777\0"),
        header("x", (-1024).to_bytes(12, "big", signed=True), b"x"),
        header("x", b"00000000020\0", b"x") + b"14 size=-512\n\n\n".ljust(512, b"\0")
        + header("a/1.jpg", b"00000000000\0"),
        header("x", b"00000000036\0", b"x") + b"30 size=99999999999999999999\n\n".ljust(512, b"\0")
        + header("a/1.jpg", b"00000000000\0"),
    ],
)  # fmt: skip
def test_impossible_sizes_in_a_tar_are_errors(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(head + JPEG.ljust(2048, b"\0")[:2048] + bytes(1024))
    with pytest.raises(DataError, match=r"x\.tar: must be a tar"):
        listed(tmp_path / "x.tar")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_tar, "_ALWAYS_ALLOWED", 1 << 20)
    source = tmp_path / "bomb.tar.gz"
    with gzip.open(source, "wb") as file:
        file.write(header("a/1.jpg", b"00400000000\0") + bytes(8 << 20))
    with pytest.raises(DataError, match="unfolds to more than 50 times its size"):
        listed(source)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["bomb.tar.gz"]


def test_hard_links_and_replaced_members(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "ann/1.jpg")
    (source / "ann/2.jpg").hardlink_to(source / "ann/1.jpg")
    tar = as_tar(source)
    with tarfile.open(tar, "a") as archive:
        again = tarfile.TarInfo("./ann/1.jpg")
        again.size = 5
        archive.addfile(again, io.BytesIO(b"later"))
    listing = listed(tar)
    assert [(image.name, image.read()) for image in listing.images] == [
        ("ann/1.jpg", b"later"),
        ("ann/2.jpg", JPEG),
    ]
    assert listing.ignored == [("ann/1.jpg", "is replaced by a later member of its name")]
