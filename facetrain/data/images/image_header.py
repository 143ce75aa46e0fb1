"""What an image file says of itself before it is decoded: format, size, EXIF orientation."""

import re
import struct
from typing import NamedTuple

FORMATS = "JPEG, PNG, WebP, TIFF, BMP, GIF, JPEG 2000, AVIF or PNM"
HEAD_BYTES = 32  # enough for `image_format`

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
_PNM = re.compile(rb"P[1-6]\s(?:\s*#[^\n]*\n)*\s*(\d{1,9})\s(?:\s*#[^\n]*\n)*\s*(\d{1,9})\s")
_ORIENTATION = 0x0112
_OF_TURN = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # of the markers C0..CF, those that are no frame header


class ImageHeader(NamedTuple):
    """Before any pixel is decoded."""

    format: str  # one of FORMATS
    width: int  # pixels, as stored
    height: int  # pixels, as stored
    orientation: int  # EXIF's 1 to 8, 1 being upright; 1 where the decoder turns by itself


def image_format(head: bytes) -> str | None:
    """The format whose signature begins `head` (HEAD_BYTES or more); None for no image."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return None if name == "WebP" and head[8:12] != b"WEBP" else name
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return "PNM" if re.match(rb"P[1-6]\s", head) else None


def read_header(encoded: bytes) -> ImageHeader | None:
    """Size and orientation of an encoded image; None where it is none, or its header is damaged."""
    kind = image_format(encoded)
    if kind is None:
        return None
    try:
        found = _READERS[kind](encoded)
    except (struct.error, LookupError, ValueError):
        return None
    return None if found is None else ImageHeader(kind, *found)


_Found = tuple[int, int, int]  # width, height, orientation


def _jpeg(data: bytes) -> _Found | None:
    place, orientation = 2, 1
    while True:
        place = data.index(b"\xff", place)
        while data[place + 1] == 0xFF:  # fill bytes
            place += 1
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height, orientation
        if marker in (0xD9, 0xDA):  # the end, or pixels without a frame
            return None
        if marker in (0, 1) or 0xD0 <= marker <= 0xD8:  # markers without a segment
            place += 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[place + 10 : place + 2 + length])
        place += 2 + length


def _png(data: bytes) -> _Found:
    width, height = struct.unpack_from(">II", data, 16)
    place, orientation = 8, 1
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if data[place + 4 : place + 8] == b"eXIf":
            orientation = _exif_orientation(data[place + 8 : place + 8 + length])
        place += 12 + length
    return width, height, orientation


def _webp(data: bytes) -> _Found | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF, 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1
    if kind != b"VP8X":
        return None
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    place, orientation = 12, 1
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        if data[place : place + 4] == b"EXIF":
            exif = data[place + 8 : place + 8 + length]
            orientation = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
        place += 8 + length + length % 2
    return width, height, orientation


def _tiff(data: bytes) -> _Found:
    tags = _tiff_tags(data)
    return tags[256], tags[257], 1  # every OpenCV turns a TIFF itself


def _bmp(data: bytes) -> _Found:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height), 1


def _gif(data: bytes) -> _Found:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height, 1


def _jpeg_2000(data: bytes) -> _Found:
    if data[:4] == b"\xff\x4f\xff\x51":
        width, height = struct.unpack_from(">II", data, 8)
    else:
        height, width = struct.unpack_from(">II", data, data.index(b"ihdr") + 4)
    return width, height, 1


def _avif(data: bytes) -> _Found:
    """A container's boxes say how to turn and mirror; its EXIF is not to be followed (MIAF)."""
    sizes = [struct.unpack_from(">II", data, at.end() + 4) for at in re.finditer(b"ispe", data)]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    turn, mirror = (
        re.search(b"\\0\\0\\0\\x09" + box + b"(.)", data, re.S) for box in (b"irot", b"imir")
    )
    quarters = turn[1][0] & 3 if turn else 0  # anticlockwise
    axis = mirror[1][0] & 1 if mirror else None  # after that: 0 top and bottom, 1 left and right
    return width, height, _OF_TURN[axis][quarters]


def _pnm(data: bytes) -> _Found | None:
    sizes = _PNM.match(data)
    return None if sizes is None else (int(sizes[1]), int(sizes[2]), 1)


_READERS = {
    "JPEG": _jpeg, "PNG": _png, "WebP": _webp, "TIFF": _tiff, "BMP": _bmp, "GIF": _gif,
    "JPEG 2000": _jpeg_2000, "AVIF": _avif, "PNM": _pnm,
}  # fmt: skip


def _exif_orientation(exif: bytes) -> int:
    """1 to 8; 1 where EXIF (a TIFF without pixels) is damaged or does not say."""
    try:
        orientation = _tiff_tags(exif).get(_ORIENTATION, 1)
    except (struct.error, KeyError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Tag -> value of the single integers in a TIFF's first directory."""
    order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version == 43:  # BigTIFF: 8-byte offsets and counts
        (place,) = struct.unpack_from(f"{order}Q", data, 8)
        (count,) = struct.unpack_from(f"{order}Q", data, place)
        place, step, entry = place + 8, 20, f"{order}HHQ"
    else:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        place, step, entry = place + 2, 12, f"{order}HHI"
    tags = {}
    for at in range(place, min(place + count * step, len(data) - step + 1), step):
        tag, kind, number = struct.unpack_from(entry, data, at)
        form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if form is not None and number == 1:
            (tags[tag],) = struct.unpack_from(f"{order}{form}", data, at + struct.calcsize(entry))
    return tags
