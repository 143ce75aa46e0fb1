"""Sources: who is in a folder, what becomes of every file, and archives that end too early."""

import base64
import errno
import itertools
import json
import os
import re
import shutil
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.sources import JPEG, as_tar, listed, tree

from facetrain import cli
from facetrain.core.errors import DataError, UserError
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions
from facetrain.data.sources import folder as source_folder
from facetrain.data.sources import image as source_image
from facetrain.data.sources.image import Listing
from facetrain.data.sources.lst import list_lst


def people(listing: Listing) -> dict[str, list[str]]:
    assert listing.identities is not None
    found: dict[str, list[str]] = {name: [] for name in listing.identities}
    for image in listing.images:
        found[listing.identities[int(image.label[0])]].append(image.name)
    return found


LEVELS = {
    ("ann/1.jpg", "bob/1.jpg", "bob/2.jpg"): {"ann": 1, "bob": 2},
    # WebFace12M: a folder of a thousand people each.
    ("0/ann/1.jpg", "1/bob/1.jpg", "1/cid/1.jpg"): {"0/ann": 1, "1/bob": 1, "1/cid": 1},
    ("imgs/ann/1.jpg", "imgs/bob/1.jpg", "readme.txt"): {"ann": 1, "bob": 1},
    ("a/b/ann/1.jpg", "a/b/bob/1.jpg", "a/b/stray.jpg"): {"ann": 1, "bob": 1},
    ("imgs/ann/1.jpg",): {"ann": 1},
    # Of unequal depth, and the same name twice.
    ("ann/1.jpg", "more/ann/1.jpg"): {"ann": 1, "more/ann": 1},
    # Images beside the identity folders are nobody's.
    ("ann/1.jpg", "bob/1.jpg", "stray.jpg"): {"ann": 1, "bob": 1},
    ("ann/1.jpg", "bob/x.txt", "cid/"): {"ann": 1, "bob": 0, "cid": 0},
}


@pytest.mark.parametrize("names", LEVELS, ids=" ".join)
def test_an_identity_is_the_folder_that_holds_images(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    source = tree(tmp_path / "s", *names)
    folder, tar = listed(source), listed(as_tar(source))
    around = listed(as_tar(source, "faces/crops"))
    assert {name: len(images) for name, images in people(folder).items()} == LEVELS[names]
    # A tar of the same tree is the same set, whatever folders are around it.
    assert people(folder) == people(tar) == people(around)
    num_files = sum(not name.endswith("/") for name in names)
    for one in (folder, tar, around):
        assert len(one.images) + len(one.refused) + len(one.ignored) == num_files


def test_one_name_in_two_folders_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed(tree(tmp_path / "apart", "train/ann/1.jpg", "train/bob/1.jpg", "val/cid/1.jpg"))
    assert not caplog.text
    split = tree(tmp_path / "s", "train/ann/1.jpg", "train/bob/1.jpg", "val/ann/2.jpg")
    for source in (split, as_tar(split)):
        caplog.clear()
        assert len(people(listed(source))) == 3
        assert "train/ann and val/ann are two identities" in caplog.text
        assert "names in several folders: 1" in caplog.text


@pytest.mark.parametrize(
    "names", [("ann/1.jpg", "ann/side/2.jpg"), ("x/ann/1.jpg", "x/ann/a/b/2.jpg", "y/bob/1.jpg")]
)
def test_images_on_two_levels_are_refused_by_name(names: tuple[str, ...], tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *names)
    for one in (source, as_tar(source)):
        with pytest.raises(DataError, match="ann holds some") as refusal:
            listed(one)
        assert all(name in str(refusal.value) for name in names[:2])


def test_images_in_no_folder_are_no_people(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold a folder of images for each person"):
        listed(tree(tmp_path / "s", "1.jpg", "2.jpg"))


def test_every_file_is_packed_or_named(tmp_path: Path) -> None:
    source = tree(
        tmp_path / "s", "ann/1.jpg", "ann/noted", "ann/list.txt", "bob/1.jpg", "stray.jpg",
        "ann/.thumb.jpg", ".git/x/y.jpg", "bob/phone.heic", "bob/broken.png",
    )  # fmt: skip
    (source / "bob/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (source / "bob/broken.png").write_bytes(b"not an image")
    metrics = pack(source, tmp_path / "out", PackOptions(size=24, show_progress=False)).metrics
    assert metrics["num_files"] == 9
    assert metrics["num_images"] == 3  # `noted` has no ending, but is an image
    skipped = [line.split("\t")[0] for line in (tmp_path / "out/skipped.txt").open()]
    ignored = [line.split("\t")[0] for line in (tmp_path / "out/ignored.txt").open()]
    assert sorted(skipped) == ["bob/broken.png", "bob/phone.heic", "stray.jpg"]
    assert sorted(ignored) == [".git/x/y.jpg", "ann/.thumb.jpg", "ann/list.txt"]


def test_linked_folders_are_followed_once_around(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "ann/1.jpg", "bob/1.jpg")
    tree(tmp_path / "elsewhere", "more/2.jpg", "cid/1.jpg", "group/dan/1.jpg")
    (source / "ann/more").symlink_to(tmp_path / "elsewhere/more")  # more of ann
    (source / "cid").symlink_to(tmp_path / "elsewhere/cid")
    (source / "group").symlink_to(tmp_path / "elsewhere/group")
    (source / "bob/loop").symlink_to(source)
    (source / "bob/self.jpg").symlink_to(source / "bob/self.jpg")
    (source / "bob/gone.jpg").symlink_to(tmp_path / "nowhere")
    (source / "bob/2.jpg").symlink_to(tmp_path / "elsewhere/cid/1.jpg")
    listing = listed(source)
    assert people(listing) == {
        "ann": ["ann/1.jpg", "ann/more/2.jpg"],
        "bob": ["bob/1.jpg", "bob/2.jpg"],
        "cid": ["cid/1.jpg"],
        "group/dan": ["group/dan/1.jpg"],
    }
    refused = dict(listing.refused)
    assert sorted(refused) == ["bob/gone.jpg", "bob/loop", "bob/self.jpg"]
    assert "a folder that it lies in" in refused["bob/loop"]


def test_links_that_multiply_end(tmp_path: Path) -> None:
    """Thirty folders, each with two links to the next, are 2^30 ways to the last."""
    source = tree(tmp_path / "s", "ann/1.jpg")
    chain = [tmp_path / f"chain{i}" for i in range(30)]
    for folder in chain:
        folder.mkdir()
    for one, following in itertools.pairwise(chain):
        (one / "a").symlink_to(following)
        (one / "b").symlink_to(following)
    (source / "bomb").symlink_to(chain[0])
    assert len(listed(source).images) == 1


def test_pipes_sockets_and_devices_are_listed_not_opened(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "ann/1.jpg")
    os.mkfifo(source / "ann/pipe.jpg")
    (source / "ann/null.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "ann/socket.jpg"))
        refused = dict(listed(source).refused)
        assert sorted(refused) == ["ann/null.jpg", "ann/pipe.jpg", "ann/socket.jpg"]
        lst = source / "a.lst"
        lst.write_text("".join(f"0\t1\tann/{n}.jpg\n" for n in ("1", "pipe", "null", "socket")))
        metrics = pack(lst, tmp_path / "out", PackOptions(size=24, show_progress=False)).metrics
    assert (metrics["num_images"], metrics["num_skipped"]) == (1, 3)


def test_a_closed_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tree(tmp_path / "s", "ann/1.jpg", "bob/1.jpg")
    scan = os.scandir

    def closed(path: str) -> object:  # tests may run as root, whom no mode keeps out
        if str(path).endswith("bob"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(source_folder.os, "scandir", closed)
    with pytest.raises(DataError, match=r"s/bob: must be a folder that can be read.*denied"):
        listed(source)


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EACCES, UserError, "0.jpg: must be readable, but Permission denied; make it"),
        (errno.EMFILE, OSError, "Too many open files"),
        (errno.EIO, None, "0.jpg\tcannot be read: Input/output error"),
    ],
)
def test_an_image_is_passed_over_only_for_its_own_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[Exception] | None,
    message: str,
) -> None:
    """Opened again, or read with more descriptors, it would be missing from a finished set."""
    people = tree(tmp_path / "people", "ann/0.jpg", "ann/1.jpg", "bob/2.jpg")
    real = os.open

    def refuse(path: str, flags: int) -> int:
        if path.endswith("0.jpg"):
            raise OSError(number, os.strerror(number), path)
        return real(path, flags)

    monkeypatch.setattr(source_image, "_without_waiting", refuse)
    if kind is None:
        pack(people, tmp_path / "out", PackOptions(size=24, show_progress=False))
        assert message in (tmp_path / "out/skipped.txt").read_text()
        return
    with pytest.raises(kind, match=re.escape(message)):
        pack(people, tmp_path / "out", PackOptions(size=24, show_progress=False))
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("0\tseven\ta.jpg", "labels are not numbers"),
        ("0\t1_000\ta.jpg", "labels are not numbers"),
        ("0\tnan\ta.jpg", "labels are not numbers"),
        ("0\t-1\ta.jpg", "no integer from 0 up"),
        ("0\t1.5\ta.jpg", "no integer from 0 up"),
        ("0\t16777216\ta.jpg", r"not below 2\^24 .* number the people from 0"),
        ("0\t1\t1e39\ta.jpg", "beyond float32"),
        ("0\t1\ta\0b.jpg", "no file name"),
        ("a.jpg 1", "fewer than three columns"),
        ("a.jpg\t1", "fewer than three columns"),
    ],
)
def test_a_list_that_cannot_be_packed_names_line_and_remedy_and_leaves_nothing(
    line: str, wrong: str, tmp_path: Path
) -> None:
    tree(tmp_path, "a.jpg")
    (tmp_path / "x.lst").write_text(f"0\t1\ta.jpg\n{line}\n")
    with pytest.raises(DataError, match=rf"x\.lst: line 2 must be .*{wrong}"):
        pack(tmp_path / "x.lst", tmp_path / "out", PackOptions(size=24, show_progress=False))
    assert not (tmp_path / "out").exists()
    (tmp_path / "x.lst").write_text("0\t1\ta.jpg\n")  # corrected, into the same folder
    assert pack(tmp_path / "x.lst", tmp_path / "out", PackOptions(size=24, show_progress=False))


def test_a_pack_that_fails_late_leaves_nothing_either(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "ann/1.jpg", "bob/1.jpg")
    for name in ("ann/1.jpg", "bob/1.jpg"):
        (source / name).write_bytes(b"not an image")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="none of the 2 images"):
        pack(source, tmp_path / "out", PackOptions(size=24, show_progress=False), num_shards=2)
    assert list((tmp_path / "out").iterdir()) == []
    (source / "ann/1.jpg").write_bytes(JPEG)
    assert pack(source, tmp_path / "out", PackOptions(size=24, show_progress=False))


def test_what_a_killed_pack_claimed_does_not_keep_another_out(tmp_path: Path) -> None:
    """Nothing was finished in it, so nothing is lost."""
    source = tree(tmp_path / "s", "ann/1.jpg", "bob/1.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.pack.json").write_text(json.dumps({"identity": "of another", "digest": "x"}))
    assert pack(source, tmp_path / "out", PackOptions(size=24, show_progress=False))


def test_a_shard_that_changed_since_it_was_finished_is_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tree(tmp_path / "s", "ann/1.jpg", "bob/1.jpg")
    pack(source, tmp_path / "wanted", PackOptions(size=24, show_progress=False), num_shards=2)
    with monkeypatch.context() as patch:
        patch.setattr("facetrain.data.packing.pack.write_property", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(source, tmp_path / "out", PackOptions(size=24, show_progress=False), num_shards=2)
    damaged = bytearray((tmp_path / "out/train-00000.rec").read_bytes())
    damaged[100] ^= 1
    (tmp_path / "out/train-00000.rec").write_bytes(damaged)
    pack(source, tmp_path / "out", PackOptions(size=24, show_progress=False), num_shards=2)
    for name in ("train-00000.rec", "train-00001.rec", "classes.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()


def test_any_name_a_file_may_have(tmp_path: Path) -> None:
    """Lists stay one line an image; names of identities survive; bytes that are not UTF-8 too."""
    source = tree(
        tmp_path / "s", "a\nb/x\ty.jpg", "c\x1b[31m/1.jpg", "d/\u200c.jpg", "e\u2028/1.jpg"
    )
    latin = os.fsdecode(b"Jos\xe9")
    tree(source, f"{latin}/1.jpg")
    (source / "d" / "bad\n.jpg").write_bytes(b"no image")
    pack(source, tmp_path / "out", PackOptions(size=24, show_progress=False))
    lines = (tmp_path / "out/train.lst").read_bytes().splitlines()
    names = [line.split(b"\t")[2] for line in lines]
    assert names[1] == rb"a\nb/x\ty.jpg"
    assert sorted(names)[1:] == sorted(
        [rb"a\nb/x\ty.jpg", rb"c\x1b[31m/1.jpg", "d/\u200c.jpg".encode(), rb"e\u2028/1.jpg"]
    )
    assert names[0] == b"Jos\xe9/1.jpg"
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert sorted(classes.values()) == sorted(["a\nb", "c\x1b[31m", "d", "e\u2028", latin])
    assert (tmp_path / "out/skipped.txt").read_bytes().startswith(b"d/bad\\n.jpg\t")


def test_a_turned_jpeg_is_stored_turned(tmp_path: Path) -> None:
    """It would pass through byte for byte, and readers that know no EXIF see it lying."""
    image = np.zeros((24, 24, 3), np.uint8)
    image[:12] = 255
    encoded = encode_jpeg(image, 100)
    turned = base64.b64decode("/9j/4QAiRXhpZgAASUkqAAgAAAABABIBAwABAAAABgAAAAAAAAA=")
    tree(tmp_path / "s", "ann/")
    (tmp_path / "s/ann/1.jpg").write_bytes(turned + encoded[2:])
    pack(tmp_path / "s", tmp_path / "out", PackOptions(size=24, show_progress=False))
    record = (tmp_path / "out/train.rec").read_bytes()
    start = record.index(b"\xff\xd8")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(record[start:], np.uint8), flags)
    assert stored[:, 14:].mean() > 240  # 6: the first row belongs at the right
    assert stored[:, :10].mean() < 15


def test_a_message_moves_no_cursor(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tree(tmp_path / "s", "c\x1b[2J\n/1.jpg", "c\x1b[2J\n/in/2.jpg")
    with pytest.raises(SystemExit) as end:
        cli.main(["pack", str(source), str(tmp_path / "out")])
    said = capfd.readouterr().err
    assert end.value.code == 2
    assert "\x1b" not in said
    assert said.count("\n") == 1
    assert r"c\x1b[2J\n holds some" in said


def test_a_pipe_for_a_list_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv: must be a CSV of landmarks, but is no plain"):
        pack(
            tree(tmp_path / "s", "a/1.jpg"),
            tmp_path / "out",
            PackOptions(landmarks=tmp_path / "pipe.csv"),
        )


def test_what_is_packed_may_lie_in_its_source(tmp_path: Path) -> None:
    """It is no person without images there, nor are its files those of the source."""
    source = tree(tmp_path / "s", "a/1.jpg")
    for out in ("out", "a/out"):
        for _ in range(2):
            metrics = pack(source, source / out, PackOptions(size=24, show_progress=False)).metrics
        assert (metrics["num_files"], metrics["num_empty_identities"]) == (1, 0)
        shutil.rmtree(source / out)


def test_a_lst_that_names_an_image_twice_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree(tmp_path, "a/0.jpg", "a/1.jpg", "b/0.jpg")
    lines = ["0\t0\ta/0.jpg", "1\t0\ta/1.jpg", "2\t1\tb/0.jpg", "3\t1\t./a/0.jpg", "4\t0\ta/1.jpg"]
    (tmp_path / "x.lst").write_text("\n".join(lines[:3]))
    list_lst(tmp_path / "x.lst")
    assert not caplog.text
    (tmp_path / "x.lst").write_text("\n".join(lines))
    assert len(list_lst(tmp_path / "x.lst").images) == 5
    assert "2 lines name an image that another line names (./a/0.jpg), 1 of them" in caplog.text


def test_a_lst_whose_index_and_label_are_exchanged_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a/0.jpg", "a/1.jpg", "b/0.jpg")
    lines = ["0\t0\ta/0.jpg", "0\t1\ta/1.jpg", "1\t2\tb/0.jpg"]
    (tmp_path / "x.lst").write_text("\n".join(lines))
    with pytest.raises(DataError, match="share 2 indices; exchange the two columns"):
        list_lst(tmp_path / "x.lst")
    (tmp_path / "x.lst").write_text("\n".join(["0\t0\ta/0.jpg", "0\t0\ta/1.jpg", "0\t1\tb/0.jpg"]))
    assert [image.label[0] for image in list_lst(tmp_path / "x.lst").images] == [0, 0, 1]
