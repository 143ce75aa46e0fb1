"""Landmarks: headers are obeyed, and what is not a face in pixels is refused or listed."""

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.images.align import ARCFACE_POINTS, align, similarity_transform
from facetrain.data.images.landmarks import (
    COORDINATES,
    Points,
    check_places,
    misfits,
    read_landmarks,
)
from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions


@pytest.fixture
def faces() -> Points:
    """(30, 5, 2): the template turned by up to 25 degrees, scaled, shifted, and disturbed."""
    random = np.random.default_rng(0)
    faces = []
    for angle, scale in zip(
        random.uniform(-0.44, 0.44, 30), random.uniform(0.5, 4, 30), strict=True
    ):
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (ARCFACE_POINTS + random.normal(0, 1.5, (5, 2))) @ turn.T
        faces.append(points + random.uniform(20, 200, 2))
    return np.stack(faces)


def write(path: Path, points: Points, header: str = "", extra: str = "") -> Path:
    """Lines in the order of `points`; `extra` at the end of each."""
    lines = [f"{header}\n"] if header else []
    for i, face in enumerate(points):
        lines.append(f"p/{i}.jpg,{','.join(f'{value:.4f}' for value in face.ravel())}{extra}\n")
    path.write_text("".join(lines))
    return path


def as_read(points: Points) -> Points:
    return np.round(points, 4)


def test_plain_lines_with_a_header_or_none(faces: Points, tmp_path: Path) -> None:
    for header in ("", f"path,{','.join(COORDINATES)}", f"Image,{','.join(COORDINATES).upper()}"):
        read = read_landmarks(write(tmp_path / "a.csv", faces, header))
        assert list(read.points) == [f"p/{i}.jpg" for i in range(30)]
        np.testing.assert_array_equal(np.stack([*read.points.values()]), as_read(faces))
        assert read.misfit == {}


EXCHANGED = [1, 0, 2, 4, 3]
LAYOUTS: dict[str, Callable[[Points], Points]] = {
    "y1,x1,y2,x2,y3,x3,y4,x4,y5,x5": lambda p: p[:, :, ::-1],
    "x2,y2,x1,y1,x3,y3,x5,y5,x4,y4": lambda p: p[:, EXCHANGED],
    "y2,x2,y1,x1,y3,x3,y5,x5,y4,x4": lambda p: p[:, EXCHANGED, ::-1],
    "x1,x2,x3,x4,x5,y1,y2,y3,y4,y5": lambda p: p.transpose(0, 2, 1),
    "x3,y3,x1,y1,x2,y2,x5,y5,x4,y4": lambda p: p[:, [2, 0, 1, 4, 3]],
}


@pytest.mark.parametrize("header", LAYOUTS)
def test_another_order_is_read_by_its_header_and_refused_without(
    header: str, faces: Points, tmp_path: Path
) -> None:
    stored = LAYOUTS[header](faces)
    read = read_landmarks(write(tmp_path / "named.csv", stored, f"path,{header}"))
    np.testing.assert_array_equal(np.stack([*read.points.values()]), as_read(faces))
    with pytest.raises(DataError, match="they fit no upright face") as refusal:
        read_landmarks(write(tmp_path / "bare.csv", stored))
    if not header.startswith("x3"):  # the message gives the header that would be right
        assert str(refusal.value).endswith(f"path,{header}")
    # The same for a file of one face.
    with pytest.raises(DataError, match="they fit no upright face"):
        read_landmarks(write(tmp_path / "one.csv", stored[:1]))


def test_names_with_sides_mean_the_image_or_the_person(faces: Points, tmp_path: Path) -> None:
    """CelebA's "left" is the image's, a detector's may be the person's: the points tell."""
    parts = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    header = "image_name," + ",".join(f"{part}_{axis}" for part in parts for axis in "xy")
    for stored in (faces, faces[:, EXCHANGED]):
        read = read_landmarks(write(tmp_path / "a.csv", stored, header))
        np.testing.assert_array_equal(np.stack([*read.points.values()]), as_read(faces))


def test_columns_that_are_not_understood_are_refused(faces: Points, tmp_path: Path) -> None:
    names = ",".join(COORDINATES)
    path = tmp_path / "a.csv"
    header = f"path,{names},score,face_size"
    assert len(read_landmarks(write(path, faces, header, ",0.9,81")).points) == 30
    with pytest.raises(DataError, match=r"nothing more but score and face_size; got \['age'\]"):
        read_landmarks(write(path, faces, f"path,{names},age", ",31"))
    with pytest.raises(DataError, match="11 cells; got 12"):
        read_landmarks(write(path, faces, extra=",0.9"))
    path.write_text("a.jpg,5,5,90,90," + ",".join(f"{x:.1f}" for x in faces[0].ravel()))
    with pytest.raises(DataError, match="11 cells; got 15"):  # a box before the points
        read_landmarks(path)
    with pytest.raises(DataError, match="got y5 0 times"):
        read_landmarks(write(path, faces, f"path,{names.replace('y5', 'score')}"))
    path.write_text(write(path, faces).read_text() + "p/30.jpg,1,2,3\n")
    with pytest.raises(DataError, match=r"a\.csv: line 31 must be path,x1,y1"):
        read_landmarks(path)


def test_an_image_has_one_line_a_face(faces: Points, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", faces)
    first = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + f"./{first}\n")
    with pytest.raises(DataError, match=r"'p/0\.jpg' has lines 1 and 31"):
        read_landmarks(path)
    path.write_text(path.read_text().replace("./p/0.jpg", "p/0.jpg#2"))
    assert "p/0.jpg#2" in read_landmarks(path).points


def test_shares_of_the_image_are_not_pixels(faces: Points, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be in pixels .* multiply x by the width"):
        read_landmarks(write(tmp_path / "a.csv", faces / 500))


def test_single_faces_that_do_not_fit_are_listed(faces: Points, tmp_path: Path) -> None:
    faces[3] = faces[3, EXCHANGED]
    faces[7] = faces[7, :, ::-1]
    faces[11] = 0  # a detector's way to say that it found none
    faces[13] = np.nan
    faces[17] = faces[17, [0, 2, 4, 1, 3]]
    faces[19] /= 1000
    read = read_landmarks(write(tmp_path / "a.csv", faces))
    assert sorted(read.misfit) == [f"p/{i}.jpg" for i in (11, 13, 17, 19, 3, 7)]
    assert "left eye seems to come first" in read.misfit["p/3.jpg"]
    assert "y seems to stand before x" in read.misfit["p/7.jpg"]
    assert "not five points apart" in read.misfit["p/13.jpg"]
    assert "span no face" in read.misfit["p/19.jpg"]
    assert len(read.points) == 24


def test_a_head_that_looks_aside_is_a_face() -> None:
    """Orthographic projections of a generic head, turned up to 75 degrees and nodding by 20."""
    head = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.57, -0.55], [-0.4, 1.13, -0.07],
                     [0.4, 1.13, -0.07]])  # fmt: skip
    for yaw in np.radians([-75, -50, 0, 50, 75]):
        for pitch in np.radians([-20, 0, 20]):
            turn = np.array(
                [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
            )
            nod = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)],
                            [0, np.sin(pitch), np.cos(pitch)]])  # fmt: skip
            assert misfits(60 * (head @ (nod @ turn).T)[None, :, :2]) == [None]


def test_the_residual_is_umeyamas(faces: Points, tmp_path: Path) -> None:
    """The closed form in the complex plane against the SVD of `similarity_transform`."""
    random = np.random.default_rng(1).uniform(0, 100, (20, 5, 2))
    for points, why in zip(random, misfits(random), strict=True):
        matrix = similarity_transform(points, ARCFACE_POINTS)
        off = points @ matrix[:, :2].T + matrix[:, 2] - ARCFACE_POINTS
        residual = np.sqrt((off**2).sum(axis=1).mean())
        if why and "left eye" not in why and "stand before" not in why:
            assert f"({residual:.1f} of 112 pixels off)" in why


def test_real_faces_fit(lfw: Path) -> None:
    read = read_landmarks(lfw / "folder_5pts.csv")
    assert (len(read.points), read.misfit) == (202, {})


def test_a_large_face_is_shrunk_by_area() -> None:
    """A fine pattern over a face of 1,792 pixels becomes its mean, not what every 16th pixel is."""
    image = np.zeros((1800, 1800, 3), np.uint8)
    image[::4, ::4] = 255  # 1 pixel in 16
    crop = align(image, ARCFACE_POINTS * 16, 112).astype(float)
    assert abs(crop[5:-5, 5:-5].mean() - 255 / 16) < 1
    assert crop[5:-5, 5:-5].std() < 4


def test_a_large_face_lands_where_a_small_one_does() -> None:
    """A ramp of brightness shows any shift between the two ways of sampling: 2 a pixel."""
    wide = np.tile(np.linspace(0, 224, 1120), (1120, 1))
    image = np.repeat(np.rint(wide)[..., None], 3, axis=2).astype(np.uint8)
    # Pixel centres: the template at ten times its size.
    crop = align(image, (ARCFACE_POINTS + 0.5) * 10 - 0.5, 112).astype(float)
    expected = (np.arange(112) + 0.5) * 10 - 0.5
    np.testing.assert_allclose(crop[50, 2:-2, 0], expected[2:-2] * 224 / 1119, atol=1.0)


def test_points_outside_the_image_are_refused() -> None:
    with pytest.raises(DataError, match="must lie in the image of 50 x 40 pixels"):
        align(np.zeros((40, 50, 3), np.uint8), ARCFACE_POINTS + 500, 112)


@pytest.fixture
def turned() -> bytes:
    """An image of 400 x 200 that EXIF turns to 200 x 400."""
    note = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    encoded = cv2.imencode(".jpg", np.zeros((200, 400, 3), np.uint8))[1].tobytes()
    return encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note + encoded[2:]


CENTRED = ARCFACE_POINTS - ARCFACE_POINTS.mean(axis=0) + (100, 180)


@pytest.mark.parametrize(
    ("change", "refused", "told"),
    [
        (lambda points: points, "", ""),
        (lambda points: points / 2, "at 0.25 of the width and 0.23 of the height", ""),
        (lambda points: points * 0.8, "at 0.40 of the width and 0.36", ""),
        (lambda points: points * (100 / 200, 100 / 400), "at 0.25 of the width", ""),  # percent
        (lambda points: points * 1.6, "at 0.80 of the width and 0.72", ""),
        (lambda points: points + np.array([60, 20]), "", "at 0.80 of the width"),  # to the right
    ],
)
def test_points_of_images_of_another_size_are_refused(
    change: Callable[[Points], Points],
    refused: str,
    told: str,
    turned: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nearly all faces in one corner; where they are aside only, a warning."""
    faces = [(change(CENTRED), lambda: turned)] * 39
    faces.append((CENTRED, lambda: turned))  # one of 40
    with pytest.raises(DataError, match=refused) if refused else contextlib.nullcontext():
        check_places(faces)
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
    check_places(faces[:7])  # too few to tell


def test_points_of_an_image_before_exif_turns_it_are_listed(turned: bytes, tmp_path: Path) -> None:
    """Landmarks of the 400 x 200 pixels as they are stored: a face on its side."""
    (tmp_path / "people" / "p").mkdir(parents=True)
    upright = ARCFACE_POINTS - ARCFACE_POINTS.mean(axis=0) + (100, 100)
    stored = np.stack([upright[:, 1], 199 - upright[:, 0]], axis=1)
    faces = np.stack([stored, *[upright] * 4])
    for i in range(5):
        (tmp_path / "people" / "p" / f"{i}.jpg").write_bytes(turned)
    landmarks = write(tmp_path / "a.csv", faces)
    metrics = pack(
        tmp_path / "people", tmp_path / "o", PackOptions(landmarks=landmarks, workers=1)
    ).metrics
    assert (metrics["num_images"], metrics["num_skipped"]) == (4, 1)
    skipped = (tmp_path / "o" / "skipped.txt").read_text()
    assert skipped.startswith("p/0.jpg\tits landmarks are turned by 90 degrees")
