"""Images: EXIF orientation in every format, and limits that hold before anything is decoded."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.images.codec import Image, decode_image
from facetrain.data.images.image_header import image_format, read_header

HEIGHT, WIDTH = 32, 48


@pytest.fixture
def picture() -> Image:
    """Four quadrants of four colours: every turn and mirror image differs."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:16, :24], image[:16, 24:] = (255, 0, 0), (0, 255, 0)
    image[16:, :24], image[16:, 24:] = (0, 0, 255), (255, 255, 0)
    return image


def encode(image: Image, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()


def exif(orientation: int, order: str = "<") -> bytes:
    """A TIFF directory with one entry, the tag 0x0112."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}IHHHIHH", 8, 1, 0x112, 3, 1, orientation, 0)
    return start + entry + bytes(4)


def jpeg(image: Image, orientation: int) -> bytes:
    encoded = encode(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100)
    segment = b"Exif\0\0" + exif(orientation, ">")
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + encoded[2:]


def png(image: Image, orientation: int) -> bytes:
    encoded, chunk = encode(image, ".png"), b"eXIf" + exif(orientation)
    length, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return encoded[:33] + length + chunk + check + encoded[33:]


def webp(image: Image, orientation: int) -> bytes:
    pixels, note = encode(image, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)[12:], exif(orientation)
    size = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, 8) + size + pixels
    body += b"EXIF" + struct.pack("<I", len(note)) + note
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(image: Image, orientation: int) -> bytes:
    """One strip, not compressed."""
    pixels, after = image.tobytes(), 8 + 2 + 12 * 10 + 4
    entries = [
        (256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, 3, after), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, after + 6), (274, 3, 1, orientation), (277, 3, 1, 3),
        (278, 3, 1, HEIGHT), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0\x0a\0" + directory + bytes(4) + struct.pack("<3H", 8, 8, 8) + pixels


def upright(image: Image, orientation: int) -> Image:
    """By the words of EXIF: where row 0 and column 0 of the file belong."""
    turns: dict[int, Callable[[Image], Image]] = {
        1: lambda a: a,  # top, left
        2: np.fliplr,  # top, right
        3: lambda a: np.rot90(a, 2),  # bottom, right
        4: np.flipud,  # bottom, left
        5: lambda a: a.swapaxes(0, 1),  # left, top
        6: lambda a: np.rot90(a, -1),  # right, top: turn clockwise
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),  # right, bottom
        8: lambda a: np.rot90(a, 1),  # left, bottom
    }
    return turns[orientation](image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", [jpeg, png, webp, tiff])
def test_every_orientation_in_every_format(
    form: Callable[[Image, int], bytes], orientation: int, picture: Image
) -> None:
    decoded = decode_image(form(picture, orientation), "image")
    wanted = upright(picture, orientation)
    assert decoded.shape == wanted.shape
    assert np.abs(decoded.astype(int) - wanted).mean() < 10  # JPEG blurs the borders


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_the_boxes_of_an_avif_turn_and_mirror(axis: int, quarters: int, picture: Image) -> None:
    """HEIF: turned anticlockwise, then mirrored: axis 0 exchanges top and bottom, 1 the sides."""
    pillow = pytest.importorskip("PIL.Image")
    if not pytest.importorskip("PIL.features").check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    file, note = io.BytesIO(), pillow.Exif()
    note[0x112] = 7  # so that both boxes are there
    pillow.fromarray(picture).save(file, "AVIF", exif=note.tobytes(), quality=95)
    encoded = bytearray(file.getvalue())
    encoded[encoded.index(b"irot") + 4], encoded[encoded.index(b"imir") + 4] = quarters, axis
    wanted = np.flip(np.rot90(picture, quarters), axis)
    decoded = decode_image(bytes(encoded), "image")
    assert decoded.shape == wanted.shape
    assert np.abs(decoded.astype(int) - wanted).mean() < 10


@pytest.mark.parametrize(
    "suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp", ".jp2", ".ppm", ".gif", ".avif"]
)
def test_a_header_says_what_decoding_gives(suffix: str, picture: Image) -> None:
    encoded = encode(picture, suffix)
    header = read_header(encoded)
    assert header is not None
    assert (header.width, header.height, header.orientation) == (WIDTH, HEIGHT, 1)
    assert decode_image(encoded, "image").shape == (HEIGHT, WIDTH, 3)
    for length in range(0, 40):  # cut anywhere: an answer or none, never an exception
        read_header(encoded[:length])


def chunk(name: bytes, content: bytes) -> bytes:
    data = name + content
    return struct.pack(">I", len(content)) + data + struct.pack(">I", zlib.crc32(data))


def test_a_decompression_bomb_is_refused_by_its_header(picture: Image) -> None:
    """900 million pixels in 109 KB; decoding them takes gigabytes."""
    side = 30_000
    pack = zlib.compressobj(9)
    row = bytes(1 + side // 8)  # one bit a pixel
    pixels = b"".join(pack.compress(row) for _ in range(100)) + pack.flush()
    size = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"x\.png: must have at most .*30000 x 30000"):
        decode_image(bomb, "x.png")
    large = bytearray(encode(picture, ".bmp"))
    large[18:26] = struct.pack("<ii", 20_000, -20_000)  # negative: the top row first
    with pytest.raises(DataError, match="20000 x 20000"):
        decode_image(bytes(large), "image")


def test_what_is_no_image_is_named_so() -> None:
    for head in (b"", b"not an image", b"RIFF\0\0\0\0WAVE", b"%PDF-1.7", b"\0\0\0\x18ftypheic"):
        assert image_format(head) is None
        with pytest.raises(DataError, match=r"must be an image \(JPEG, PNG.*do not decode"):
            decode_image(head, "image")


@pytest.mark.skipif(sys.platform != "linux", reason="its limit on memory")
def test_a_lack_of_memory_is_no_fault_of_the_image() -> None:
    """OpenCV tells the two apart in neither; a good image would be left out of a set for it."""
    code = """
import resource, cv2, numpy as np
from facetrain.data.images.codec import decode_image
encoded = cv2.imencode(".png", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes()
assert decode_image(encoded, "a.png").shape == (4000, 4000, 3)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (20 << 20),) * 2)
try:
    decode_image(encoded, "a.png")
except MemoryError:
    print("no memory")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "no memory\n", done.stderr
