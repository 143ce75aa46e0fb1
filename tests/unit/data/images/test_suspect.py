"""Images that decode although part of their file is lost."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.shards import write_shard

from facetrain.core.errors import DataError
from facetrain.core.log import configure_logging
from facetrain.data.batches.loader import OrderedLoader
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.codec import Image
from facetrain.data.images.decoder_warnings import with_warnings
from facetrain.data.images.suspect import decode_checked
from facetrain.data.inspection import inspect
from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions

FORMATS = {
    "jpg": (".jpg", []),
    "optimised jpg": (".jpg", [cv2.IMWRITE_JPEG_OPTIMIZE, 1]),
    "progressive jpg": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "jpg with restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
    "bmp": (".bmp", []),
    "tiff lzw": (".tiff", []),
    "tiff raw": (".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
    "tiff deflate": (".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 8]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 90]),
    "lossless webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    "jp2": (".jp2", []),
    "png": (".png", []),
    "ppm": (".ppm", []),
}


def textured(size: int) -> Image:
    """Smooth shapes with grain, as photographs have."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(40, 220, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.int64)
    grain = rng.integers(-6, 7, image.shape)
    return (image + grain).clip(0, 255).astype(np.uint8)


def encoded(name: str, image: Image) -> bytes:
    suffix, options = FORMATS[name]
    return cv2.imencode(suffix, image, options)[1].tobytes()


def with_hole(data: bytes, start: float = 0.5) -> bytes:
    """A quarter of it zeros, its ends intact."""
    at, length = int(start * len(data)), len(data) // 4
    return data[:at] + bytes(length) + data[at + length :]


@pytest.mark.parametrize("size", [112, 250])
@pytest.mark.parametrize("name", FORMATS)
def test_a_hole_is_seen_in_every_format_and_none_where_there_is_none(name: str, size: int) -> None:
    whole = encoded(name, textured(size))
    image, reason = decode_checked(whole, "whole")
    assert reason is None
    assert image.shape == (size, size, 3)
    for start in (0.3, 0.5, 0.6):
        try:
            assert decode_checked(with_hole(whole, start), "holed")[1] is not None
        except DataError:  # refused altogether, which lists it too
            assert name in ("png", "lossless webp", "progressive jpg")


@pytest.mark.parametrize("name", ["jpg", "optimised jpg", "jpg with restarts"])
def test_a_hole_of_one_block_is_seen_anywhere_in_a_jpeg(name: str) -> None:
    # The decoder itself says nothing of one in five, wrong in a third of their pixels.
    whole = encoded(name, textured(250))
    start = whole.index(b"\xff\xda") + 14
    for at in range(start, len(whole) - 130, len(whole) // 40):
        holed = whole[:at] + bytes(128) + whole[at + 128 :]
        assert decode_checked(holed, "holed")[1] is not None, at


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tone", [0, 255])
@pytest.mark.parametrize("bars", ["bottom", "both", "all"])
def test_flat_areas_are_no_holes(name: str, tone: int, bars: str) -> None:
    # Aligned faces have black borders; an optimised JPEG's flat area may be all zero bits.
    image = textured(256)
    image[160:] = tone
    if bars == "both":
        image[:64] = tone
    if bars == "all":
        image[:] = tone
    assert decode_checked(encoded(name, image), "flat")[1] is None


def test_zeros_outside_the_pixels_of_a_jpeg_are_none() -> None:
    whole = encoded("jpg", textured(112))
    comment = b"\xff\xe1" + (2 + 4000).to_bytes(2, "big") + bytes(4000)  # as camera makers' notes
    assert decode_checked(whole[:2] + comment + whole[2:] + bytes(3000), "padded")[1] is None


def test_what_a_decoder_prints_is_heard_and_other_lines_are_not_lost() -> None:
    script = (
        "import os\n"
        "from facetrain.data.images.decoder_warnings import with_warnings\n"
        "def speak():\n"
        "    os.write(2, b'mine\\nCorrupt JPEG data: premature end of data segment\\n')\n"
        "    return with_warnings(lambda: 7)[0]\n"
        "print(with_warnings(speak))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "(7, 'Corrupt JPEG data: premature end of data segment')\n"
    assert done.stderr == "mine\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is kept in a file")
def test_what_a_decoder_prints_is_heard_on_a_full_disk() -> None:
    script = (
        "import os, tempfile\n"
        "from facetrain.data.images.decoder_warnings import with_warnings\n"
        "def full(*_, **__):\n"
        "    raise OSError(28, 'No space left on device')\n"
        "tempfile.TemporaryFile = full\n"
        "print(with_warnings(lambda: os.write(2, b'Corrupt JPEG data\\n')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "(18, 'Corrupt JPEG data')\n"


def test_it_works_without_stderr() -> None:
    script = (
        "import os\nfrom facetrain.data.images.decoder_warnings import with_warnings\n"
        "os.close(2)\nprint(with_warnings(lambda: 7))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "(7, '')\n"


def test_an_error_inside_leaves_stderr_where_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        with_warnings(lambda: 1 // 0)
    print("still here", file=sys.stderr)
    assert capfd.readouterr().err == "still here\n"


def test_pack_and_inspect_name_what_they_suspect(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    people = tmp_path / "people"
    for identity in ("ann", "bob"):
        (people / identity).mkdir(parents=True)
        for i in range(2):
            (people / identity / f"{i}.jpg").write_bytes(encoded("jpg", textured(112)))
    (people / "ann/1.jpg").write_bytes(with_hole(encoded("jpg", textured(112))))  # passes through
    (people / "bob/0.bmp").write_bytes(with_hole(encoded("bmp", textured(200))))  # encoded anew
    artifact = pack(people, tmp_path / "out", PackOptions(show_progress=False))
    assert artifact.metrics["num_suspect"] == 2
    lines = (tmp_path / "out/suspect.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["ann/1.jpg", "bob/0.bmp"]
    result = inspect(tmp_path / "out", show_progress=False)
    assert result["suspect"] == [2, 3]  # keys count from 1: ann/0, ann/1, bob/0.bmp, ...
    assert (result["num_images"], result["unreadable"]) == (5, [])
    assert "Corrupt" not in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_names_whose_image_the_decoder_complains_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    whole = encoded("jpg", textured(112))
    write_shard(tmp_path / f"{workers}.rec", [0, 0, 0], [whole, with_hole(whole), whole])
    configure_logging()
    data = FaceDataset.open(tmp_path)
    loader = OrderedLoader(data, 112, 3, 0, 3, workers=workers)
    assert [batch.label.tolist() for batch in loader] == [[0, 0, 0]]  # suspect, and in use
    lines = [line for line in capfd.readouterr().err.splitlines() if "Corrupt JPEG" in line]
    assert len(lines) == 1
    assert f"record {workers}.rec:2: decodes, but is suspect: Corrupt JPEG data" in lines[0]
