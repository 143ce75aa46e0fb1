"""Faces in photographs: which of several, at which size, and as good as another detector's."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.dataset import FaceDataset
from facetrain.data.evaluation.pack_pairs import pack_pairs
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.data.images.codec import Image, decode_image, encode_jpeg
from facetrain.data.images.detection import Face, FaceDetector, choose
from facetrain.data.images.landmarks import read_landmarks
from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions


@pytest.fixture(scope="session")
def yunet(lfw: Path) -> Path:
    """The detector's file, which is no part of the project."""
    path = lfw.parent / "models" / "face_detection_yunet.onnx"
    if not path.is_file():
        pytest.skip(f"no face detector at {path}")
    return path


@pytest.fixture(scope="session")
def detector(yunet: Path) -> FaceDetector:
    return FaceDetector(yunet)


def photograph(lfw: Path, name: str) -> Image:
    return decode_image((lfw / "folder" / name).read_bytes(), name)


ANN, BOB = "Ai_Sugiyama/Ai_Sugiyama_0001.jpg", "Angela_Merkel/Angela_Merkel_0001.jpg"


def face(left: float, top: float, size: float, score: float = 0.9) -> Face:
    return Face(np.zeros((5, 2)), score, np.array([left, top, size, size]))


def test_the_largest_near_the_centre() -> None:
    middle, corner = face(180, 180, 40), face(0, 0, 60)
    # In 400 x 400: weight 1600 * e^0 against 3600 * exp(-4 * 0.85^2) = 200.
    assert choose([corner, middle], 400, 400, "largest") == [middle]
    assert choose([corner, middle], 400, 400, "centred") == [middle]
    assert choose([corner, middle], 400, 400, "all") == [middle, corner]
    # Slightly off the centre, size decides: 1600 against 10000 * exp(-4 * 0.2^2).
    beside = face(190, 190, 100)
    assert choose([middle, beside], 400, 400, "largest") == [beside]
    assert choose([middle, beside], 400, 400, "centred") == [middle]
    assert choose([middle], 400, 400, "skip") == [middle]
    assert choose([], 400, 400, "largest") == []
    with pytest.raises(DataError, match="shows 2 faces"):
        choose([middle, beside], 400, 400, "skip")


@pytest.mark.slow
def test_against_the_landmarks_of_another_detector(lfw: Path, yunet: Path, tmp_path: Path) -> None:
    """Median distance of the points under 3 pixels of 250; every face is found."""
    options = {"detector": yunet, "workers": 1, "show_progress": False}
    metrics = pack(lfw / "folder", tmp_path / "out", PackOptions(**options)).metrics
    assert (metrics["num_images"], metrics["num_skipped"]) == (202, 0)
    assert metrics["images_per_second"] > 0
    ours = read_landmarks(tmp_path / "out/landmarks.csv").points
    theirs = read_landmarks(lfw / "folder_5pts.csv").points
    distance = [np.linalg.norm(ours[name] - theirs[name], axis=1) for name in theirs]
    assert np.median(distance) < 3
    assert np.max(np.mean(distance, axis=1)) < 10  # nowhere another face, or nothing like one
    # What it wrote is what --landmarks reads: the same bytes.
    again = {"landmarks": tmp_path / "out/landmarks.csv", "workers": 1, "show_progress": False}
    pack(lfw / "folder", tmp_path / "again", PackOptions(**again))
    first, second = tmp_path / "out/train.rec", tmp_path / "again/train.rec"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("scale", [0.16, 0.4, 3, 12])
def test_faces_of_every_size(scale: float, lfw: Path, detector: FaceDetector) -> None:
    """16 to 1,300 pixels; the landmarks move with the image, within 8 % of the face."""
    image = photograph(lfw, BOB)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)
    places = []
    for one in (image, scaled):
        found = choose(detector.find(one), one.shape[1], one.shape[0], "largest")
        places.append(detector.refined(one, found[0]))
    off = np.linalg.norm(places[1].points / scale - places[0].points, axis=1)
    assert np.median(off) < 0.08 * places[0].size


def test_a_face_that_fills_the_image_and_one_lost_in_it(lfw: Path, detector: FaceDetector) -> None:
    image = photograph(lfw, BOB)
    box = detector.find(image)[0].box.astype(int)
    close = image[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
    close = cv2.resize(close, (900, 900), interpolation=cv2.INTER_CUBIC)
    assert len(detector.find(close)) >= 1
    wide = np.full((1500, 2500, 3), 128, np.uint8)
    wide[1000:1080, 2000:2080] = cv2.resize(image, (80, 80), interpolation=cv2.INTER_AREA)
    (found,) = detector.find(wide)
    assert 2000 < found.centre[0] < 2080
    assert 1000 < found.centre[1] < 1080


def jpeg_on_its_side(image: Image) -> bytes:
    """Stored turned by 90 degrees to the left, with the EXIF that says so (6)."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    encoded = encode_jpeg(np.ascontiguousarray(np.rot90(image)), 100)
    return b"\xff\xd8\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + encoded[2:]


def test_photographs_are_packed_by_the_face_or_listed(
    lfw: Path, yunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    (source / "ann").mkdir(parents=True)
    one, other = photograph(lfw, ANN), photograph(lfw, BOB)
    both = np.concatenate([one, other], axis=1)
    (source / "ann/1.jpg").write_bytes(encode_jpeg(one, 100))
    (source / "ann/2.jpg").write_bytes(jpeg_on_its_side(one))
    (source / "ann/3.jpg").write_bytes(encode_jpeg(both, 95))
    (source / "ann/4.jpg").write_bytes(encode_jpeg(np.full((200, 200, 3), 90, np.uint8)))
    numbers = {}
    for choice in ("largest", "all", "skip"):
        out = tmp_path / choice
        options = {"detector": yunet, "faces": choice, "workers": 1, "show_progress": False}
        numbers[choice] = pack(source, out, PackOptions(**options)).metrics
        skipped = dict(line.split("\t") for line in (out / "skipped.txt").open())
        assert "no face" in skipped["ann/4.jpg"]
        assert len(skipped) == (2 if choice == "skip" else 1)
    assert [numbers[choice]["num_images"] for choice in numbers] == [3, 4, 2]
    assert numbers["all"]["num_further_faces"] == 1
    names = [line.split("\t")[2] for line in (tmp_path / "all/train.lst").read_text().splitlines()]
    assert names == ["ann/1.jpg", "ann/2.jpg", "ann/3.jpg", "ann/3.jpg#2"]
    # Interrupted after its shards, it goes on to the same bytes.
    with monkeypatch.context() as patch:
        patch.setattr("facetrain.data.packing.pack.write_property", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(
                source, tmp_path / "again", PackOptions(**{**options, "faces": "all"}), num_shards=4
            )
    pack(source, tmp_path / "again", PackOptions(**{**options, "faces": "all"}), num_shards=4)
    found = (tmp_path / "again/landmarks.csv").read_bytes()
    assert found == (tmp_path / "all/landmarks.csv").read_bytes()
    assert not [one for one in (tmp_path / "again").iterdir() if one.name.startswith(".")]
    # The photograph on its side gives the face that the upright one does.
    data = FaceDataset.open(tmp_path / "largest")
    upright, turned = (data.decode(i, 112).astype(float).ravel() for i in (0, 1))
    assert np.corrcoef(upright, turned)[0, 1] > 0.98


def test_a_detector_in_a_file_whose_name_is_not_utf8(yunet: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    path.write_bytes(yunet.read_bytes())
    FaceDetector(path)  # of OpenCV's own reader the process would die


def test_a_detector_that_is_none_is_named(lfw: Path, yunet: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no network")
    options = {"show_progress": False}
    for name, message in (("x.onnx", r"x\.onnx: must be YuNet"), ("y.onnx", "there is none")):
        with pytest.raises(DataError, match=message):
            pack(lfw / "folder", tmp_path / "out", PackOptions(detector=tmp_path / name, **options))
    both = {"detector": yunet, "landmarks": lfw / "folder_5pts.csv"}
    with pytest.raises(ConfigError, match="--landmarks and --detector both"):
        pack(lfw / "folder", tmp_path / "out", PackOptions(**both))
    with pytest.raises(ConfigError, match="--faces all is for what --detector"):
        pack(lfw / "folder", tmp_path / "out", PackOptions(faces="all"))
    assert not (tmp_path / "out").exists()


def test_landmarks_must_be_of_the_source(lfw: Path, tmp_path: Path) -> None:
    lines = (lfw / "folder_5pts.csv").read_text().splitlines()
    (tmp_path / "a.csv").write_text("\n".join([lines[0], *(f"x/{one}" for one in lines[1:])]))
    with pytest.raises(DataError, match=r"none of their 202 lines does \('x/A"):
        pack(
            lfw / "folder",
            tmp_path / "out",
            PackOptions(landmarks=tmp_path / "a.csv", show_progress=False),
        )
    # Of images of three times the size: all faces fit, and lie beyond the same corner; one of them
    # lies outside its image.
    rows = [line.split(",") for line in lines[1:]]
    moved = [[row[0], *(str(3 * float(cell)) for cell in row[1:])] for row in rows]
    (tmp_path / "a.csv").write_text("\n".join(map(",".join, moved)))
    with pytest.raises(DataError, match="100 % of the faces lie in one corner"):
        pack(
            lfw / "folder",
            tmp_path / "out",
            PackOptions(landmarks=tmp_path / "a.csv", show_progress=False),
        )
    (tmp_path / "a.csv").write_text("\n".join(map(",".join, [moved[0], *rows[1:]])))
    pack(
        lfw / "folder",
        tmp_path / "out",
        PackOptions(landmarks=tmp_path / "a.csv", show_progress=False),
    )
    skipped = (tmp_path / "out/skipped.txt").read_text()
    assert skipped.startswith(rows[0][0])
    assert "lie outside its 250 x 250 pixels" in skipped
    assert skipped.count("\n") == 1


def test_pairs_become_a_bin(lfw: Path, tmp_path: Path) -> None:
    """Each image is the one that `pack` stores, in the order of the list."""
    names = sorted(path.relative_to(lfw / "folder") for path in (lfw / "folder").glob("A*/*.jpg"))[
        :6
    ]
    lines = [f"{names[0]}\t{names[1]}\t1\n", f"{names[2]}\t{names[0]}\t0\n"]
    (tmp_path / "list.txt").write_text("".join(lines))
    csv = lfw / "folder_5pts.csv"
    arguments = (lfw / "folder", tmp_path / "x.bin", tmp_path / "list.txt")
    numbers = pack_pairs(*arguments, PackOptions(landmarks=csv, workers=1, show_progress=False))
    assert (numbers["num_pairs"], numbers["num_same"], numbers["num_images"]) == (2, 1, 3)
    pack(
        lfw / "folder",
        tmp_path / "shards",
        PackOptions(landmarks=csv, workers=1, show_progress=False),
    )
    stored = FaceDataset.open(tmp_path / "shards")
    lst = (tmp_path / "shards/train.lst").read_text().splitlines()
    row = {line.split("\t")[2]: i for i, line in enumerate(lst)}
    written = VerificationSet.open(tmp_path / "x.bin")
    assert written.same.tolist() == [True, False]
    wanted = [names[0], names[1], names[2], names[0]]
    assert [written.encoded(i) for i in range(4)] == [stored.encoded(row[str(n)]) for n in wanted]

    # Without landmarks of one image its pair is left out, and named.
    kept = [line for line in csv.read_text().splitlines() if str(names[2]) not in line]
    (tmp_path / "fewer.csv").write_text("\n".join(kept))
    numbers = pack_pairs(
        *arguments, PackOptions(landmarks=tmp_path / "fewer.csv", show_progress=False)
    )
    assert (numbers["num_pairs"], numbers["num_skipped_pairs"]) == (1, 1)
    assert (tmp_path / "x.bin.skipped.txt").read_text() == f"{names[2]}\thas no landmarks\n"
    with pytest.raises(ConfigError, match=r"must be a file that ends in \.bin"):
        pack_pairs(lfw / "folder", tmp_path / "x", tmp_path / "list.txt", PackOptions())
