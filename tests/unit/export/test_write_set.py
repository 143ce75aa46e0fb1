"""The set as decided, in every format, and back again."""

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cleaning_results import everything_kept
from helpers.manifest import plain_manifest
from helpers.shards import write_shard

from facetrain.core.digest import file_digest
from facetrain.core.errors import ConfigError, DataError
from facetrain.data.cleaning_result import Reason
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.inspection import inspect
from facetrain.data.overlay import LabelOverlay
from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions
from facetrain.data.shards.recordio import ShardReader, unpack_record
from facetrain.data.stage_data import write_stage_data
from facetrain.export import write_set as module
from facetrain.export.decided_set import Choices
from facetrain.export.set_layout import FileNames, folder_names, image_suffix
from facetrain.export.write_set import WriteConfig, write_set

NAMES = ("Ann Ä", "bob", "cem")
GIVEN = [0, 0, 0, 1, 1, 1, 2, 2]
FILES = ("1.jpg", "2.jpg", "3.jpg", "1.jpg", "2.jpg", "3.jpg", "1.jpg", "2.jpg")
# ann's third is bob's; bob's third is nobody; cem's second copies his first; cem is bob.
KEPT = [True, True, False, True, True, False, True, False]
SUGGESTED = [-1, -1, 1, -1, -1, -1, -1, 1]
REASON = [1, 1, Reason.OTHER_IDENTITY, 1, 4, Reason.NOBODY, 1, Reason.COPY]


def picture(number: int) -> bytes:
    return encode_jpeg(np.full((16, 16, 3), 20 * number + 10, np.uint8))


def data_set(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    folder.mkdir(parents=True)
    write_shard(folder / "train.rec", GIVEN, [picture(number) for number in range(8)])
    named = enumerate(zip(GIVEN, FILES, strict=True), 1)
    lines = [f"{key}\t{label}\t{names[label]}/{name}\n" for key, (label, name) in named]
    (folder / "train.lst").write_text("".join(lines), "utf-8")
    (folder / "classes.json").write_text(json.dumps(dict(enumerate(names))))
    return folder


def cleaned_run(tmp_path: Path) -> Path:
    data = DataConfig(path=(data_set(tmp_path / "set"),), workers=0)
    run, given = tmp_path / "run", FaceDataset.open(data.path)
    write_stage_data(run / "clean", data)
    kept, given_label = np.array(KEPT), np.array(GIVEN)
    found = dataclasses.replace(
        everything_kept(8, 3),
        clean_probability=np.where(kept, 0.9, 0.1).astype(np.float32),
        kept=kept,
        suggested_label=np.array(SUGGESTED),
        suggested_probability=np.where(np.array(SUGGESTED) >= 0, 0.8, 0).astype(np.float32),
        reason=np.array(REASON, np.uint8),
        merge_label=np.where(given_label == 2, 1, -1),
        duplicate_of=np.array([-1] * 7 + [6]),
        overlap=given_label == 0,
    )
    found.save(run / "clean/clean.npz")
    LabelOverlay.make(
        given_label, kept, source=~kept, source_names=("", "clean"),
        dataset_fingerprint=given.base_fingerprint,
    ).save(run / "clean/overlay.npz")  # fmt: skip
    finish(run / "clean", given)
    return run


def finish(cleaning: Path, data: FaceDataset) -> None:
    """Write the manifest of what is there."""
    left = {name: file_digest(cleaning / name) for name in ("clean.npz", "overlay.npz")}
    plain_manifest(cleaning, "clean", inputs={"data": data.fingerprint}, files=left)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return cleaned_run(tmp_path)


def write(run: Path, out: Path, *, choices: dict[str, bool] | None = None, **options: Any) -> Any:
    config = WriteConfig(choices=Choices(**(choices or {})), **options)
    return write_set(run, out, config, show_progress=False)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")
    }


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "images.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_for_each_identity(run: Path, tmp_path: Path) -> None:
    numbers = write(run, tmp_path / "out", format="folder")
    assert numbers == {
        "num_images": 5,
        "num_identities": 3,
        "num_dropped": 3,
        "num_relabelled": 0,
        "format": "folder",
    }
    assert tree(tmp_path / "out") == {
        "Ann Ä/1.jpg": picture(0),
        "Ann Ä/2.jpg": picture(1),
        "bob/1.jpg": picture(3),
        "bob/2.jpg": picture(4),
        "cem/1.jpg": picture(6),
    }


def test_the_table_tells_of_every_image(run: Path, tmp_path: Path) -> None:
    write(run, tmp_path / "out", format="csv", choices={"suggestions": True})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".write.json",
        "images.csv",
    ]
    rows = table(tmp_path / "out")
    assert [row["key"] for row in rows] == [f"train.rec:{key}" for key in range(1, 9)]
    assert rows[0]["source"] == "Ann Ä/1.jpg"
    moved = {"given_label": "0", "given_name": "Ann Ä", "label": "1", "name": "bob", "kept": "1"}
    moved |= {"reason": "another identity", "suggested_label": "1", "suggested_probability": "0.8"}
    assert {name: rows[2][name] for name in moved} == moved
    dropped = {"kept": "0", "label": "", "name": "", "reason": "nobody in the set", "written": ""}
    assert {name: rows[5][name] for name in dropped} == dropped
    assert rows[7]["duplicate_of"] == "train.rec:7"
    assert rows[7]["kept"] == "0"  # a copy is not brought back by its suggestion
    assert [row["merge_label"] for row in rows] == [""] * 6 + ["1", "1"]
    assert float(rows[0]["clean_probability"]) == pytest.approx(0.9)


def test_suggestions_merges_and_overlap(run: Path, tmp_path: Path) -> None:
    choices = {"suggestions": True, "merges": True, "drop_overlap": True}
    write(run, tmp_path / "out", format="folder", choices=choices)
    # ann, in an evaluation set, leaves with all that was hers; cem is bob.
    assert tree(tmp_path / "out") == {
        "bob/1.jpg": picture(3),
        "bob/2.jpg": picture(4),
        "bob/1_2.jpg": picture(6),
    }
    write(run, tmp_path / "moved", format="folder", choices={"suggestions": True})
    assert tree(tmp_path / "moved")["bob/3.jpg"] == picture(2)


def test_what_a_person_decided_stands(run: Path, tmp_path: Path) -> None:
    # A person drops ann's first, takes bob's third back, and puts ann's third with cem.
    label, kept = np.full(8, -1), np.ones(8, np.bool_)
    label[[0, 2, 5]], kept[0] = [0, 2, 1], False
    LabelOverlay.make(
        label, kept, source=label >= 0, source_names=("", "review")
    ).save(run / "review/overlay.npz")  # fmt: skip
    write(run, tmp_path / "out", format="folder", choices={"suggestions": True})
    assert tree(tmp_path / "out") == {
        "Ann Ä/2.jpg": picture(1),
        "bob/1.jpg": picture(3),
        "bob/2.jpg": picture(4),
        "bob/3.jpg": picture(5),
        "cem/3.jpg": picture(2),
        "cem/1.jpg": picture(6),
    }
    # The person used cem, so a merge of the two keeps that name.
    LabelOverlay.make(
        np.where(label == 1, -1, label), kept, source=(label >= 0) & (label != 1),
        source_names=("", "review"),
    ).save(run / "review/overlay.npz")  # fmt: skip
    write(run, tmp_path / "merged", format="folder", choices={"merges": True})
    assert {path.name for path in (tmp_path / "merged").iterdir() if path.is_dir()} == {
        "Ann Ä",
        "cem",
    }
    assert len(list((tmp_path / "merged/cem").iterdir())) == 4


@pytest.mark.parametrize("layout", ["header", "flat"])
def test_rec_in_both_layouts(run: Path, tmp_path: Path, layout: str) -> None:
    choices = {"merges": True}
    write(run, tmp_path / "out", format="rec", layout=layout, choices=choices)
    data = FaceDataset.open(tmp_path / "out")
    assert data.layout == layout
    assert data.label.tolist() == [0, 0, 1, 1, 1]
    assert data.names == ("Ann Ä", "bob")
    assert [data.encoded(i) for i in range(5)] == [picture(i) for i in (0, 1, 3, 4, 6)]
    assert data.source(4) == "cem/1.jpg"  # what it was called before
    assert (tmp_path / "out/property").read_text() == "2,16,16\n"
    rows = table(tmp_path / "out")
    first = 1 if layout == "header" else 0
    assert (rows[6]["written"], rows[6]["written_label"]) == (f"train.rec:{first + 4}", "1")
    reader = ShardReader(tmp_path / "out/train.rec")
    assert reader.keys.tolist() == list(range(5 if layout == "flat" else 8))
    header = unpack_record(reader.read(first + 4))[0]
    assert (header.flag, header.label.tolist(), header.id) == (0, [1], first + 4)
    assert inspect(tmp_path / "out", show_progress=False)["unreadable"] == []


@pytest.mark.parametrize("file_format", ["folder", "lst"])
def test_written_and_packed_again_it_is_the_same_set(
    run: Path, tmp_path: Path, file_format: str
) -> None:
    write(run, tmp_path / "out", format=file_format)
    source = tmp_path / "out" if file_format == "folder" else tmp_path / "out/train.lst"
    pack(source, tmp_path / "again", PackOptions(size=16, show_progress=False))
    again = FaceDataset.open(tmp_path / "again")
    decided = FaceDataset.open(tmp_path / "set", [run / "clean/overlay.npz"])
    assert again.label.tolist() == decided.label.tolist()
    assert [again.encoded(i) for i in range(5)] == [decided.encoded(i) for i in range(5)]
    if file_format == "folder":  # a .lst knows numbers alone
        assert again.names == decided.names


def photograph(number: int) -> bytes:
    """What `picture` was packed from; with an edge, so that its pixels are stored as something."""
    image = np.full((32, 32, 3), 20 * number + 10, np.uint8)
    image[:, :16] += 4
    return encode_jpeg(image)


def originals(folder: Path) -> Path:
    for number, label in enumerate(GIVEN):
        file = folder / NAMES[label] / FILES[number]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photograph(number))
    return folder


def test_originals_are_linked(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = originals(tmp_path / "people")
    plain_manifest(tmp_path / "set", "pack")
    numbers = write(run, tmp_path / "out", format="folder", originals=people)
    assert (numbers["num_linked"], numbers["num_suspect"]) == (5, 0)
    written = tmp_path / "out/cem/1.jpg"
    assert written.read_bytes() == photograph(6)
    assert os.path.samefile(written, people / "cem/1.jpg")
    write(run, tmp_path / "list", format="lst", originals=people)
    lines = (tmp_path / "list/train.lst").read_text("utf-8").splitlines()
    assert lines[4] == f"4\t2\t{people}/cem/1.jpg"
    for out, file_format in (("out", "folder"), ("list", "lst")):  # what is done is not done again
        write(run, tmp_path / out, format=file_format, originals=people)
    assert not caplog.records
    (people / "cem/1.jpg").unlink()
    for out, file_format in (("gone", "folder"), ("list", "lst")):
        with pytest.raises(DataError, match=r"cem/1\.jpg: must be the file that was packed"):
            write(run, tmp_path / out, format=file_format, originals=people)
    assert not (tmp_path / "gone").exists()
    with pytest.raises(ConfigError, match="--originals needs --format folder or lst"):
        write(run, tmp_path / "no", format="rec", originals=people)
    with pytest.raises(ConfigError, match="--layout is of --format rec"):
        write(run, tmp_path / "no", format="csv", layout="flat")


@pytest.mark.parametrize("file_format", ["folder", "lst"])
def test_an_original_that_is_no_image_is_refused_or_left_out(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, file_format: str
) -> None:
    people = originals(tmp_path / "people")
    write(run, tmp_path / "out", format=file_format, originals=people)
    (people / "cem/1.jpg").write_bytes(photograph(6)[:-9])
    with pytest.raises(DataError, match="holds something else, perhaps a set of other"):
        write(run, tmp_path / "out", format=file_format, originals=people)  # not what it was of
    why = r"cem/1\.jpg: must be the image that was packed, but .* cut short; restore it"
    with pytest.raises(DataError, match=why):
        write(run, tmp_path / "new", format=file_format, originals=people)
    assert not (tmp_path / "new").exists()
    write_stage_data(run / "clean", DataConfig(path=(tmp_path / "set",), on_corrupt="skip"))
    numbers = write(run, tmp_path / "new", format=file_format, originals=people)
    assert (numbers["num_images"], numbers["num_dropped"]) == (4, 4)
    assert "left out: " in caplog.text
    row = table(tmp_path / "new")[6]
    assert (row["written"], row["reason"]) == ("", "unreadable record")


def test_an_original_that_may_be_damaged_or_another_is_named(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pixels lost; another picture of any size; the packed picture's own size, by its bytes."""
    people, noise = originals(tmp_path / "people"), np.random.default_rng(0)
    other = noise.integers(0, 256, (200, 200, 3), np.uint8)
    hole = bytearray(encode_jpeg(other))
    hole[5000:5400] = bytes(400)
    (people / "Ann Ä/1.jpg").write_bytes(hole)
    (people / "Ann Ä/2.jpg").write_bytes(encode_jpeg(other[:64]))
    (people / "bob/1.jpg").write_bytes(picture(3))
    (people / "bob/2.jpg").write_bytes(picture(3))
    numbers = write(run, tmp_path / "out", format="lst", originals=people)
    assert numbers["num_suspect"] == 1  # whoever made this set, it is not known how
    plain_manifest(tmp_path / "set", "pack", inputs={"source": "", "landmarks": ""})
    numbers = write(run, tmp_path / "out", format="lst", originals=people)
    assert numbers["num_suspect"] == 1  # aligned
    plain_manifest(tmp_path / "set", "pack", inputs={"source": ""})
    numbers = write(run, tmp_path / "whole", format="lst", originals=people)
    assert (numbers["num_images"], numbers["num_suspect"]) == (5, 3)
    named = [line.split("\t") for line in (tmp_path / "whole/suspect.txt").read_text().splitlines()]
    assert [name for name, _ in named] == ["Ann Ä/1.jpg", "Ann Ä/2.jpg", "bob/2.jpg"]
    assert named[0][1].startswith("400 zero bytes at 5000")
    assert "is not the image that was packed" in named[1][1]
    assert "its bytes differ" in named[2][1]
    assert "bob/2.jpg: suspect: is not the file" in caplog.text


def test_a_failure_leaves_nothing_and_other_content_is_left_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, "image_suffix", lambda encoded: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            write(run, out, format="folder")
    assert not out.exists()
    assert not list(tmp_path.glob(".out.*"))
    out.mkdir()
    first = write(run, out, format="folder")  # an empty folder is taken
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert write(run, out, format="folder") == first  # and the same set is there already
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    for other in ({"format": "csv"}, {"format": "folder", "choices": {"merges": True}}):
        with pytest.raises(DataError, match="must be new or empty"):
            write(run, out, **other)
    LabelOverlay.make(
        np.array([0] + [-1] * 7), np.array([False] + [True] * 7), source=np.eye(8)[0],
        source_names=("", "review"),
    ).save(run / "review/overlay.npz")  # fmt: skip
    with pytest.raises(DataError, match="a set of other decisions"):
        write(run, out, format="folder")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    assert write(run, tmp_path / "link", format="csv")["num_images"] == 4
    assert (tmp_path / "elsewhere/images.csv").is_file()
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="must be new or empty"):
        write(run, tmp_path / "own", format="folder")
    assert (tmp_path / "own/thesis.txt").read_text() == "mine"


def test_a_written_set_that_was_damaged_is_written_again(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    write(run, out, format="folder")
    wanted = tree(out)
    write(run, out, format="folder")
    assert not caplog.records
    (out / "bob" / "1.jpg").write_bytes(picture(0))
    (out / "bob" / "mine.txt").touch()  # no fault by itself
    write(run, out, format="folder")
    assert tree(out) == wanted
    assert "bob/1.jpg: must be as it was written" in caplog.text
    assert (tmp_path / "damaged_out" / "bob" / "mine.txt").exists()
    (out / "bob" / "1.jpg").unlink()  # by its owner, again
    write(run, out, format="folder")
    assert tree(out) == wanted
    assert (tmp_path / "damaged_out" / "bob" / "mine.txt").exists()
    assert not (tmp_path / "damaged_out_2" / "bob" / "1.jpg").exists()
    (out / ".write.json").write_text("{}")
    with pytest.raises(DataError, match="must be new or empty"):
        write(run, out, format="folder")


@pytest.mark.parametrize("name", ["clean.npz", "overlay.npz"])
def test_a_cleaning_that_was_exchanged_is_not_written(run: Path, tmp_path: Path, name: str) -> None:
    """For another whole file of its kind: a review's overlay, or another run's result."""
    file = run / "clean" / name
    with np.load(file) as arrays:
        other = {key: arrays[key] for key in arrays.files}
    other["kept"] = np.ones_like(other["kept"])
    np.savez(file, **other)
    with pytest.raises(DataError, match=f"{name}: must be as the stage clean left it"):
        write(run, tmp_path / "out", format="folder")


def test_images_that_are_none(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "set/train.rec"
    content = path.read_bytes()
    spoiled = content.replace(picture(3), b"\x99" * len(picture(3)))
    path.write_bytes(spoiled)
    data = DataConfig(path=(tmp_path / "set",), on_corrupt="skip")
    overlay = LabelOverlay.load(run / "clean/overlay.npz")
    dataclasses.replace(overlay, dataset_fingerprint="").save(run / "clean/overlay.npz")
    finish(run / "clean", FaceDataset.open(data.path))
    with pytest.raises(DataError, match=r"record train\.rec:4: must be an image"):
        write(run, tmp_path / "out", format="folder")
    write_stage_data(run / "clean", data)
    assert write(run, tmp_path / "out", format="folder")["num_images"] == 4
    assert table(tmp_path / "out")[3]["reason"] == "unreadable record"


def test_names_become_folders() -> None:
    names = ["ann", "ann", "", "../x", "a/b", "a", ".hid", "b/c/d", "Ann", "x" * 300]
    found = folder_names(list(range(10)), names)
    assert found == ["ann", "ann__1", "2", "3", "a/b", "a__5", "6", "b/c/d", "Ann__8", "9"]
    ours = folder_names([0, 1, 2], ["images.csv", "Train.lst", "suspect.txt"])
    assert ours == ["images.csv__0", "Train.lst__1", "suspect.txt__2"]


def test_files_keep_their_names_once_in_a_folder() -> None:
    files = FileNames()
    assert files.next("ann", "x/1.JPG", "k", ".jpg") == "1.JPG"
    assert files.next("ann", "y/1.jpg", "k", ".jpg") == "1_2.jpg"
    assert files.next("bob", "y/1.png", "k", ".jpg") == "1.jpg"
    assert files.next("bob", None, "train.rec_7", ".png") == "train.rec_7.png"
    assert files.next("bob", "..", "train.rec_8", ".png") == "train.rec_8.png"
    first = {
        ".jpg": b"\xff\xd8\xff\xe0", ".webp": b"RIFF\0\0\0\0WEBPVP8 ", ".pgm": b"P5 8 8 255 ",
        ".avif": b"\0\0\0\x1cftypavif", ".jp2": b"\0\0\0\x0cjP  ", ".j2k": b"\xff\x4f\xff\x51",
    }  # fmt: skip
    assert [image_suffix(one) for one in first.values()] == list(first)
    for none in (b"garbage", b"RIFF\0\0\0\0WAVEfmt "):
        with pytest.raises(DataError, match="must be an image"):
            image_suffix(none)


def test_two_sets_are_written_as_one(tmp_path: Path) -> None:
    a, b = data_set(tmp_path / "a"), data_set(tmp_path / "b", ("Ann Ä", "dan", "eve"))
    path = b / "train.rec"  # another person under every number
    write_shard(path, GIVEN, [picture(11 - number) for number in range(8)])
    data = DataConfig(path=(a, b))
    joined, run = FaceDataset.open(data.path), tmp_path / "run"
    write_stage_data(run, data)
    merge = np.where(joined.label == 3, 0, -1)  # b's ann is a's
    found = dataclasses.replace(everything_kept(joined.num_images, 6), merge_label=merge)
    found.save(run / "clean.npz")
    LabelOverlay.make(joined.base_label, found.kept).save(run / "overlay.npz")
    finish(run, joined)  # the stage's folder alone
    write(run, tmp_path / "out", format="folder", choices={"merges": True})
    people = {path.name: len(list(path.iterdir())) for path in (tmp_path / "out").glob("*/")}
    assert people == {"Ann Ä": 6, "bob": 3, "cem": 2, "dan": 3, "eve": 2}
    write(run, tmp_path / "apart", format="folder")
    assert {path.name for path in (tmp_path / "apart").glob("*/")} == {
        "Ann Ä", "Ann Ä__3", "bob", "cem", "dan", "eve"
    }  # fmt: skip
