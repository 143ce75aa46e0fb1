"""The official pair lists and folders, written small, and read back pair by pair."""

import cv2
import numpy as np
import pytest
from helpers.pairs import LFW_BOX, write_image, write_lfw
from scipy.io import savemat

from facetrain.core.errors import DataError
from facetrain.data.evaluation.pair_lists import (
    KINDS,
    read_agedb,
    read_any,
    read_lfw,
    read_two_lines,
)
from facetrain.data.evaluation.paired_faces import FolderSet, PairedFaces
from facetrain.data.images.align import ARCFACE_POINTS, align
from facetrain.data.images.codec import decode_image
from facetrain.data.images.landmarks import read_landmarks


def triples(pairs):
    """(first, second, same) of each pair."""
    return list(zip(pairs.name[0::2], pairs.name[1::2], pairs.same.tolist(), strict=True))


def test_two_lines_a_pair_are_dealt_to_folds(tmp_path):
    # CALFW writes the fold as the label of a same pair, CPLFW writes 1; 2 pairs of each a fold.
    path = tmp_path / "pairs.txt"
    lines = []
    for place in range(20):
        label = place // 2 + 1
        lines += [f"Ann_Lee_{place:04d}.jpg {label}", f"Ann_Lee_{place + 50:04d}.jpg {label}"]
    for place in range(20):
        lines += [f"Bo_{place:04d}.jpg 0", f"Cy_{place:04d}.jpg 0"]
    path.write_text("\n".join(lines) + "\n")
    pairs = read_two_lines(path)
    assert pairs.same.tolist() == [True, True, False, False] * 10
    assert triples(pairs)[4:7] == [
        ("Ann_Lee_0002.jpg", "Ann_Lee_0052.jpg", True),
        ("Ann_Lee_0003.jpg", "Ann_Lee_0053.jpg", True),
        ("Bo_0002.jpg", "Cy_0002.jpg", False),
    ]
    assert pairs.identity[8:14] == ["Ann_Lee"] * 4 + ["Bo", "Cy"]
    path.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(DataError, match=r"as many different ones .* got 78 lines with 40"):
        read_two_lines(path)
    path.write_text("a.jpg 1 2\n")
    with pytest.raises(DataError, match=r"line 1 must be 'image label'"):
        read_two_lines(path)


def write_cfp(folder):
    """Three people with two frontal and two profile images; two pairs of each kind a fold."""
    lists = {"F": [], "P": []}
    for side, name in (("F", "frontal"), ("P", "profile")):
        for person in (1, 2, 3):
            for number in (1, 2):
                place = len(lists[side]) + 1
                path = f"Data/Images/{person:03d}/{name}/{number:02d}.jpg"
                lists[side].append(f"{place} ../{path}")
                write_image(folder / path, np.full((30, 20, 3), 10 * place, np.uint8))
        (folder / "Protocol").mkdir(exist_ok=True)
        (folder / "Protocol" / f"Pair_list_{side}.txt").write_text("\n".join(lists[side]) + "\n")
    for kind, same, diff in (
        ("FF", "1,2\n3,4\n", "1,3\n2,5\n"),
        ("FP", "1,1\n4,3\n", "1,6\n5,2\n"),
    ):
        for fold in range(1, 11):
            split = folder / "Protocol" / "Split" / kind / f"{fold:02d}"
            split.mkdir(parents=True)
            (split / "same.txt").write_text(same)
            (split / "diff.txt").write_text(diff)


def test_cfp(tmp_path):
    write_cfp(tmp_path)
    frontal, profile = (KINDS[f"cfp_{one}"].read(tmp_path / "Protocol") for one in ("ff", "fp"))
    root = "Data/Images"
    assert triples(frontal)[:4] == [
        (f"{root}/001/frontal/01.jpg", f"{root}/001/frontal/02.jpg", True),
        (f"{root}/002/frontal/01.jpg", f"{root}/002/frontal/02.jpg", True),
        (f"{root}/001/frontal/01.jpg", f"{root}/002/frontal/01.jpg", False),
        (f"{root}/001/frontal/02.jpg", f"{root}/003/frontal/01.jpg", False),
    ]
    assert triples(profile)[1] == (f"{root}/002/frontal/02.jpg", f"{root}/002/profile/01.jpg", True)
    assert triples(profile)[3] == (
        f"{root}/003/frontal/01.jpg",
        f"{root}/001/profile/02.jpg",
        False,
    )
    assert profile.identity[:4] == ["001", "001", "002", "002"]
    assert len(profile.same) == 40
    faces = PairedFaces.open(FolderSet(kind="cfp_fp", images=tmp_path))
    assert faces.num_pairs == 40
    assert faces.decode(2, 20)[0, 0, 0] == pytest.approx(40, abs=2)  # the fourth frontal image
    broken = tmp_path / "Protocol" / "Split" / "FP" / "03" / "diff.txt"
    broken.write_text("1,7\n")
    with pytest.raises(
        DataError, match=r"03/diff.txt: must name images .*Pair_list_P.txt; got '7'"
    ):
        KINDS["cfp_fp"].read(tmp_path / "Protocol")


def test_agedb(tmp_path):
    """The nesting that MATLAB leaves: cells of structs of cells of structs."""

    def cell(items, shape):
        array = np.empty(shape, object)
        for place, item in enumerate(items):
            array.reshape(-1)[place] = item
        return array

    splits = []
    for k in range(10):
        first = [{"name": f"{k}_AnnLee_{30 + i}_f"} for i in range(2)]
        second = [{"name": f"{k + 50}_{who}_60_f"} for who in ("AnnLee", "BoDoe")]
        splits.append({"pairs": cell(first + second, (2, 2)), "labels": np.array([[1, -1]])})
    savemat(tmp_path / "agedb.mat", {"splits": cell(splits, (10, 1))})
    pairs = read_agedb(tmp_path / "agedb.mat")
    assert triples(pairs)[2:4] == [
        ("1_AnnLee_30_f.jpg", "51_AnnLee_60_f.jpg", True),
        ("1_AnnLee_31_f.jpg", "51_BoDoe_60_f.jpg", False),
    ]
    assert pairs.identity[:4] == ["AnnLee", "AnnLee", "AnnLee", "BoDoe"]
    savemat(tmp_path / "other.mat", {"splits": np.zeros(3)})
    with pytest.raises(DataError, match=r"must be AgeDB-30's .mat"):
        read_agedb(tmp_path / "other.mat")


def test_lfw_crops_aligns_or_takes_as_it_is(tmp_path):
    write_lfw(tmp_path, half=1)
    images = tmp_path / "images"
    config = FolderSet(kind="lfw", images=images, pairs=tmp_path / "pairs.txt")
    faces = PairedFaces.open(config)
    assert triples(faces.pairs)[0] == (
        "Person_0a/Person_0a_0001.jpg",
        "Person_0a/Person_0a_0002.jpg",
        True,
    )
    assert faces.pairs.numbered[:, 1].tolist() == [0, 1]
    image = decode_image(faces.encoded(3), "image 3")
    left, top, side = LFW_BOX
    square = image[top : top + side, left : left + side]
    expected = cv2.resize(square, (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(faces.decode(3, 64), expected)

    points = ARCFACE_POINTS + 60
    lines = [
        f"{path.relative_to(images)}," + ",".join(map(str, points.reshape(-1)))
        for path in images.rglob("*.jpg")
    ]

    def marked(rows: list[str]) -> PairedFaces:
        (tmp_path / "points.csv").write_text("\n".join(rows))
        return PairedFaces.open(config.model_copy(update={"landmarks": tmp_path / "points.csv"}))

    aligned = marked(lines)
    np.testing.assert_array_equal(aligned.decode(3, 112), align(image, points, 112))
    # A detector misses some faces, and every pair must be judged all the same.
    fewer = [line for line in lines if not line.startswith("Person_0b/Person_0b_0002")]
    partly = marked(fewer)
    np.testing.assert_array_equal(partly.decode(3, 64), expected)
    np.testing.assert_array_equal(partly.decode(1, 64), aligned.decode(1, 64))
    # A face whose points do not fit counts as missed; a file of such points is refused.
    wrong = ",".join(map(str, points[[1, 0, 2, 4, 3]].reshape(-1)))
    other = [line.split(",")[0] + f",{wrong}" for line in lines]
    one = [
        b if a.startswith("Person_0b/Person_0b_0002") else a
        for a, b in zip(lines, other, strict=True)
    ]
    np.testing.assert_array_equal(marked(one).decode(3, 64), expected)
    with pytest.raises(DataError, match="the person's left eye seems to come first"):
        marked(other)
    with pytest.raises(DataError, match=r"has points of none of them \(lfw/Person_"):
        marked([f"lfw/{line}" for line in lines])

    small = tmp_path / "small"
    write_lfw(small, half=1, size=112)
    ready = PairedFaces.open(FolderSet(kind="lfw", images=small / "images", pairs=config.pairs))
    image = decode_image(ready.encoded(3), "image 3")
    np.testing.assert_array_equal(ready.decode(3, 112), image)

    (images / "Person_3a" / "Person_3a_0002.jpg").unlink()
    with pytest.raises(DataError, match=r"Person_3a_0002.jpg: must be an image of .*pairs.txt"):
        PairedFaces.open(config)


def test_lfws_square_lies_where_faces_are(lfw):
    """Cropped without landmarks, real faces have their points near the template's."""
    left, top, side = LFW_BOX
    errors = [
        (points - [left, top]) * 112 / side - ARCFACE_POINTS
        for points in read_landmarks(lfw / "folder_5pts.csv").points.values()
    ]
    assert len(errors) == 202
    assert np.abs(np.mean(errors, axis=0)).max() < 2.5  # pixels of 112
    # A control: the whole image's centre square is far off.
    whole = [
        points * 112 / 250 - ARCFACE_POINTS
        for points in read_landmarks(lfw / "folder_5pts.csv").points.values()
    ]
    assert np.abs(np.mean(whole, axis=0)).max() > 10


LISTED = [("ann/1.jpg", "ann/2.jpg", True), ("ann/1.jpg", "bo/1.jpg", False)]


@pytest.mark.parametrize(
    "text",
    [
        "ann/1.jpg ann/2.jpg 1\nann/1.jpg bo/1.jpg 0\n",
        "\ufeffann/1.jpg\tann/2.jpg\t1\r\n\r\nann/1.jpg\tbo/1.jpg\t0",
        "image1,image2,same\n./ann/1.jpg, ann/2.jpg, 1\nann/1.jpg, bo/1.jpg, 0\n",
    ],
)
def test_a_list_of_ones_own(tmp_path, text):
    (tmp_path / "my.txt").write_text(text, encoding="utf-8")
    pairs = read_any(tmp_path / "my.txt")
    assert triples(pairs) == LISTED
    assert pairs.identity == ["ann", "ann", "ann", "bo"]
    (tmp_path / "flat.txt").write_text("a.jpg b.jpg 1\na.jpg c.jpg 0\n")
    assert read_any(tmp_path / "flat.txt").identity is None  # folders do not tell the people


@pytest.mark.parametrize("header", ["", "1\n", "1 1\n", "\ufeff1\t1\n"])
def test_names_and_numbers_with_and_without_a_header(tmp_path, header):
    """RFW's lists are LFW's without the first line."""
    (tmp_path / "my.txt").write_text(header + "m.0c7 2 14\nm.0c7\t2\tm.0x1\t3\n".replace("\t", " "))
    pairs = read_any(tmp_path / "my.txt")
    assert triples(pairs) == [
        ("m.0c7/m.0c7_0002.jpg", "m.0c7/m.0c7_0014.jpg", True),
        ("m.0c7/m.0c7_0002.jpg", "m.0x1/m.0x1_0003.jpg", False),
    ]
    assert pairs.identity == ["m.0c7", "m.0c7", "m.0c7", "m.0x1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg b.jpg 1\na.jpg b.jpg 2\n", r"every line must be .* got 'a.jpg b.jpg 2'"),
        ("a.jpg b.jpg 1\nAnn 1 2\n", "every line must be .* got 'Ann 1 2'"),
        ("a.jpg b.jpg\n", "every line must be .* got 'a.jpg b.jpg'"),
        ("my photo.jpg b.jpg 1\n", "every line must be"),
        ("10 2\nAnn 1 2\nAnn 1 Bo 1\n", "promises 40 pairs, but it holds 2"),
        ("Ann 1 2\nAnn 1 Ann 2\n", "must name two people, got 'Ann' twice"),
        ("a b c d e\n", "every line must be"),
        ("10 300\n", "promises 6000 pairs, but it holds 0"),
        ("\n", "but has none"),
        # a mistake in the first flag is no header
        ("a/1.jpg a/2.jpg x\na/1.jpg b/1.jpg 0\n", "every line must be .* got 'a/1.jpg a/2.jpg x'"),
        ("a b -1\na c 1\n", "every line must be .* got 'a b -1'"),
        ("a.jpg b.jpg 1\nc.jpg a.jpg 0\n./b.jpg a.jpg 0\n", "b.jpg and a.jpg are both"),
        ("a.jpg b.jpg 1\na.jpg a.jpg 0\n", "must name two images, got a.jpg twice"),
    ],
)
def test_a_list_that_is_not_understood(tmp_path, text, message):
    (tmp_path / "my.txt").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_any(tmp_path / "my.txt")
    assert "my.txt" in str(error.value)


def test_lfws_list_with_blanks_and_a_byte_order_mark(tmp_path):
    write_lfw(tmp_path, half=2, size=8)
    official = read_lfw(tmp_path / "pairs.txt")
    text = (tmp_path / "pairs.txt").read_text()
    (tmp_path / "blanks.txt").write_text("\ufeff" + text.replace("\t", "  "), encoding="utf-8")
    for read in (read_lfw, read_any):
        found = read(tmp_path / "blanks.txt")
        assert found.name == official.name
        assert found.same.tolist() == official.same.tolist()
    for coding, between in (("utf-16", "\t"), ("utf-8", ",")):
        (tmp_path / "other.txt").write_text(text.replace("\t", between), encoding=coding)
        for read in (read_lfw, read_any):
            assert read(tmp_path / "other.txt").name == official.name
    (tmp_path / "rfw.txt").write_text(text.partition("\n")[2])
    assert read_any(tmp_path / "rfw.txt").name == official.name
    with pytest.raises(DataError, match="is given with --images"):
        read_lfw(tmp_path / "rfw.txt")


@pytest.mark.parametrize("end", ["\v", "\f", "\x1c", "\x85", "\u2028"])
def test_only_a_line_feed_or_carriage_return_ends_a_line(tmp_path, end):
    """A damaged one must not pass for one, nor the same character in a name part the name."""
    (tmp_path / "pairs.txt").write_bytes(f"a/1.jpg a/2.jpg 1{end}a/1.jpg b/1.jpg 0\n".encode())
    with pytest.raises(DataError, match="every line must be"):
        read_any(tmp_path / "pairs.txt")
    named = f"a{end}b/1.jpg\ta/2.jpg\t1\rb/1.jpg\ta/2.jpg\t0\r\n"
    (tmp_path / "pairs.txt").write_bytes(named.encode())
    assert read_any(tmp_path / "pairs.txt").name[0] == f"a{end}b/1.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"10\t2\nann\t1\ttwo\n", r"but has line 2: 'ann\\t1\\ttwo'"),
        (b"ten\t2\nann\t1\t2\n", r"but has line 1: 'ten\\t2'"),
        (b"10\t2\nann\t1\n", r"but has line 2: 'ann\\t1'"),
        (b"10\t2\nJos\xe9\t1\t2\n", "but byte 8 is no UTF-8; save it as UTF-8"),
    ],
)
def test_a_line_of_lfws_list_that_is_not_understood_is_named(tmp_path, content, message):
    (tmp_path / "pairs.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_lfw(tmp_path / "pairs.txt")


def test_images_of_another_extension(tmp_path):
    grey = np.full((8, 8, 3), 90, np.uint8)
    for name in ("a.PNG", "b.JPG", "c.jpg", "c.png"):
        write_image(tmp_path / "images" / name, grey)
    (tmp_path / "my.txt").write_text("a.jpg b.jpg 1\na.jpg c.jpg 0\n")
    config = FolderSet(kind="list", images=tmp_path / "images", pairs=tmp_path / "my.txt")
    faces = PairedFaces.open(config)
    assert (config.name, faces.pairs.numbered) == ("my", None)
    assert [faces.file[name].name for name in faces.pairs.name] == [
        "a.PNG", "b.JPG", "a.PNG", "c.jpg",
    ]  # fmt: skip
    assert faces.decode(0, 8)[0, 0, 0] == 90
    write_image(tmp_path / "images" / "b.jpeg", grey)
    with pytest.raises(DataError, match=r"b.jpg: must be an image .* there is b.JPG and b.jpeg"):
        PairedFaces.open(config)
    (tmp_path / "my.txt").write_text("a.jpg d.jpg 1\n")
    with pytest.raises(DataError, match=r"d.jpg: must be an image of .*my.txt, but there is none"):
        PairedFaces.open(config)
