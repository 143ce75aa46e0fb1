"""Packing: what goes in, what comes out, and what an interruption costs."""

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.packing import SIZE, files, picture, run

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.align import ARCFACE_POINTS, align, similarity_transform
from facetrain.data.images.codec import decode_image, encode_jpeg
from facetrain.data.images.workers import ordered_map
from facetrain.data.packing import pack_image
from facetrain.data.shards.recordio import ShardReader, unpack_record


def test_folder_per_identity(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    metrics = run(folder, out)
    assert metrics == {
        "num_files": 11,
        "num_images": 6,
        "num_identities": 3,
        "num_skipped": 3,
        "num_ignored": 2,
        "num_suspect": 0,
        "num_empty_identities": 2,
        "empty_identities": ["bad", "e"],
    }
    data = FaceDataset.open(out)
    # Names in order, without a gap where nothing decodes: a 0, b 1, c 2.
    assert data.class_ids.tolist() == [0, 1, 2]
    assert data.label.tolist() == [0, 1, 1, 2, 2, 2]
    assert json.loads((out / "classes.json").read_text()) == {"0": "a", "1": "b", "2": "c"}
    assert (out / "property").read_text() == "3,24,24\n"
    names = ["a/x.jpg", "b/1.jpg", "b/2.jpg", "c/1.jpg", "c/2.jpg", "c/3.jpg"]
    lines = [f"{i + 1}\t{data.label[i]}\t{name}\n" for i, name in enumerate(names)]
    assert (out / "train.lst").read_text() == "".join(lines)
    # Right size and JPEG already: byte for byte.
    assert [data.encoded(i) for i in range(6)] == [(folder / name).read_bytes() for name in names]
    skipped = dict(line.split("\t") for line in (out / "skipped.txt").read_text().splitlines())
    assert set(skipped) == {"b/broken.jpg", "c/cut.jpg", "bad/x.png"}
    assert "do not decode" in skipped["b/broken.jpg"]
    assert "cut short" in skipped["c/cut.jpg"]
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []


def test_the_layout_is_the_one_insightface_reads(folder: Path, tmp_path: Path) -> None:
    """arcface_torch: images are range(1, int(header0.label[0])) when header0.flag > 0."""
    run(folder, tmp_path / "out")
    reader = ShardReader(tmp_path / "out" / "train.rec")
    header, content = unpack_record(reader.read(0))
    assert (header.flag, header.label.tolist(), content) == (2, [7, 10], b"")
    ranges = [unpack_record(reader.read(key))[0].label.tolist() for key in (7, 8, 9)]
    assert ranges == [[1, 2], [2, 4], [4, 7]]
    # Record 0 comes last in the file, as RecBuilder writes it.
    assert (tmp_path / "out" / "train.idx").read_text().splitlines()[-1].startswith("0\t")


def test_shards_are_complete_and_share_labels(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "one")
    run(folder, tmp_path / "many", num_shards=3)
    assert len(list((tmp_path / "many").glob("*.rec"))) == 3
    one, many = FaceDataset.open(tmp_path / "one"), FaceDataset.open(tmp_path / "many")
    assert many.label.tolist() == one.label.tolist()
    assert [many.encoded(i) for i in range(6)] == [one.encoded(i) for i in range(6)]
    last = FaceDataset.open(tmp_path / "many" / "train-00002.rec")
    assert (last.layout, last.class_ids.tolist()) == ("header", [2])


def test_other_sizes_are_cropped_and_resized(tmp_path: Path) -> None:
    (tmp_path / "source" / "a").mkdir(parents=True)
    image = picture(1, SIZE, 3 * SIZE)
    (tmp_path / "source" / "a" / "wide.png").write_bytes(
        cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    )
    run(tmp_path / "source", tmp_path / "out")
    encoded = FaceDataset.open(tmp_path / "out").encoded(0)
    # Centre square of 24 x 72 is columns 24..47, no resizing: then JPEG at quality 95.
    assert encoded == encode_jpeg(image[:, SIZE : 2 * SIZE], 95)


def write_tar(folder: Path, path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as tar:
        tar.add(folder, arcname=".")
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_gives_what_the_folder_gives(folder: Path, tmp_path: Path, mode: str) -> None:
    run(folder, tmp_path / "wanted")
    metrics = run(write_tar(folder, tmp_path / "source.tar", mode), tmp_path / "out")
    wanted, got = files(tmp_path / "wanted"), files(tmp_path / "out")
    assert got == wanted
    assert metrics["empty_identities"] == ["bad", "e"]


def test_hostile_tar_members_are_listed_not_followed(tmp_path: Path) -> None:
    image = encode_jpeg(picture(0))
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name in ("a/1.jpg", "../outside/1.jpg", "/absolute/1.jpg", "root.jpg", "."):
            member = tarfile.TarInfo(name)
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
        link = tarfile.TarInfo("a/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    metrics = run(tmp_path / "evil.tar", tmp_path / "out")
    assert (metrics["num_images"], metrics["num_skipped"]) == (1, 5)
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    assert "../outside/1.jpg\tits name points outside" in skipped
    assert "a/link.jpg\tis not a plain file" in skipped
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.tar", "out"]


def test_lst_keeps_its_labels(folder: Path, tmp_path: Path) -> None:
    lst = folder / "images.lst"
    lst.write_text(
        "0\t7\tc/1.jpg\n1\t2\ta/x.jpg\n2\t7\t0.5\t-3\tc/2.jpg\n3\t2\tmissing.jpg\n4\t9\tbad/x.png\n"
    )
    metrics = run(lst, tmp_path / "out")
    assert (metrics["num_images"], metrics["num_skipped"]) == (3, 2)
    assert metrics["empty_identities"] == ["9"]
    reader = ShardReader(tmp_path / "out" / "train.rec")
    labels = [unpack_record(reader.read(key))[0].label.tolist() for key in (1, 2, 3)]
    assert labels == [[2], [7], [7, 0.5, -3]]
    assert (tmp_path / "out" / "property").read_text() == "8,24,24\n"  # room for class 7
    lst.write_text("0\tseven\tc/1.jpg\n")
    with pytest.raises(DataError, match=r"images\.lst: line 1 must be index"):
        run(lst, tmp_path / "other")


def test_landmarks_align_and_images_without_them_are_skipped(tmp_path: Path) -> None:
    """The five points of a rotated, scaled, shifted picture land on the template."""
    angle, scale = 0.3, 1.7
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ARCFACE_POINTS @ turn.T + (60, 20)
    image = np.zeros((300, 300, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 5, (255, 255, 255), -1)
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "a" / "1.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (source / "a" / "2.jpg").write_bytes(encode_jpeg(picture(1)))
    row = ",".join(f"{value:.3f}" for value in points.ravel())
    for name, header in (("with.csv", "path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n"), ("bare.csv", "")):
        (tmp_path / name).write_text(f"{header}a/1.png,{row}\n")
        out = tmp_path / f"out-{name}"
        metrics = run(source, out, size=56, landmarks=tmp_path / name)
        assert (metrics["num_images"], metrics["num_skipped"]) == (1, 1)
        assert (out / "skipped.txt").read_text() == "a/2.jpg\thas no landmarks\n"
        aligned = FaceDataset.open(out).decode(0, 56)[..., 0]
        centres = np.rint(ARCFACE_POINTS / 2).astype(int)
        # Discs of radius 5 / 1.7 / 2 = 1.5 pixels; at their centres the picture is bright.
        assert all(aligned[y, x] > 150 for x, y in centres)
        assert aligned[5, 5] < 30
    (tmp_path / "bad.csv").write_text(f"a/1.png,{row}\na/2.jpg,1,2,3\n")
    with pytest.raises(DataError, match=r"bad\.csv: line 2 must be path,x1,y1"):
        run(source, tmp_path / "out", landmarks=tmp_path / "bad.csv")


def test_similarity_recovers_a_known_transform_and_ignores_reflection() -> None:
    turn = 2.0 * np.array([[0.6, -0.8], [0.8, 0.6]])
    matrix = similarity_transform(ARCFACE_POINTS, ARCFACE_POINTS @ turn.T + (3, -4))
    np.testing.assert_allclose(matrix, np.column_stack([turn, (3, -4)]), atol=1e-9)
    mirrored = similarity_transform(ARCFACE_POINTS, ARCFACE_POINTS * (-1, 1))
    assert np.linalg.det(mirrored[:, :2]) > 0
    # Least squares: no small change of the four parameters does better.
    random = np.random.default_rng(0)
    noisy = ARCFACE_POINTS + random.normal(0, 3, (5, 2))
    best = similarity_transform(noisy, ARCFACE_POINTS)

    def error(a: float, b: float, x: float, y: float) -> float:
        moved = noisy @ np.array([[a, -b], [b, a]]).T + (x, y)
        return float(((moved - ARCFACE_POINTS) ** 2).sum())

    found = np.array([best[0, 0], best[1, 0], best[0, 2], best[1, 2]])
    for step in random.normal(0, 1e-3, (50, 4)):
        assert error(*(found + step)) > error(*found)
    with pytest.raises(DataError, match="finite and apart"):
        align(np.zeros((9, 9, 3), np.uint8), np.ones((5, 2)), 9)


def test_worker_count_does_not_change_a_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_image, "_IMAGES_PER_WORKER", 1)
    monkeypatch.setattr(pack_image, "_CHUNK", 2)
    run(folder, tmp_path / "one", workers=1)
    run(folder, tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_ordered_map_keeps_order_and_passes_errors() -> None:
    assert list(ordered_map(abs, range(-40, 0), 2)) == list(range(40, 0, -1))
    with pytest.raises(ZeroDivisionError):
        list(ordered_map((1).__truediv__, [1, 0], 1))


def test_bad_requests_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quality"):
        run(folder, tmp_path / "out", quality=0)
    with pytest.raises(ConfigError, match="num_shards=99, but only 9 images"):
        run(folder, tmp_path / "out", num_shards=99)
    with pytest.raises(DataError, match=r"must be a folder, a \.lst or a tar"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="must hold images"):
        run(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(DataError, match="must be a tar of identity folders"):
        run(tmp_path / "text", tmp_path / "out")
    (tmp_path / "bad" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of the 1 images .* a/1\.jpg: .*do not decode"):
        run(tmp_path / "bad", tmp_path / "out")


def test_real_faces_align_onto_the_packed_crops(lfw: Path, tmp_path: Path) -> None:
    """The folder's faces, aligned by us, look like the crops of train.rec, aligned elsewhere."""
    metrics = run(
        lfw / "folder", tmp_path / "out", size=112, landmarks=lfw / "folder_5pts.csv", num_shards=2
    )
    assert metrics["num_identities"] == 40
    assert metrics["num_skipped"] == 0
    ours, theirs = FaceDataset.open(tmp_path / "out"), FaceDataset.open(lfw / "train.rec")
    rows = {
        line.split("\t")[2]: i
        for i, line in enumerate((lfw / "train.lst").read_text().splitlines())
    }
    names = [
        line.split("\t")[2]
        for lst in sorted((tmp_path / "out").glob("*.lst"))
        for line in lst.read_text().splitlines()
    ]
    assert len(names) == ours.num_images == metrics["num_images"]
    alike, unlike = [], []
    for i, name in enumerate(names):
        a = ours.decode(i, 112).astype(float).ravel()
        b = theirs.decode(rows[name], 112).astype(float).ravel()
        c = theirs.decode(rows[names[i - 5]], 112).astype(float).ravel()
        alike.append(np.corrcoef(a, b)[0, 1])
        unlike.append(np.corrcoef(a, c)[0, 1])
    # Pixels of the same photograph correlate near 1, those of others (the control) do not.
    assert np.median(alike) > 0.98
    assert np.median(unlike) < 0.7
    assert decode_image(ours.encoded(0), "first").shape == (112, 112, 3)
