"""Images that decode although part of their file is lost: which, and why.

A quarter of a JPEG overwritten with zeros decodes without an error: libjpeg fills the rest with
grey and says so on stderr. BMP, TIFF, WebP and JPEG 2000 say nothing at all. Two things give such
a file away: the decoder's own words, and a long run of zero bytes where its pixels are stored.
Compressed pixels hold no such run; uncompressed ones do where the picture is black, which is common
at its top and bottom only.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from facetrain.data.images.codec import Image, decode_with_warnings

_LEAST_RUN = 64  # bytes: 512 zero bits in a row
_LEAST_SHARE = 16  # of the stored pixels, 1 in 16, where flat areas may be stored as zeros
_SEQUENTIAL = (0xC0, 0xC1)  # frames of a JPEG, coded by Huffman
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_NEAR = 12  # bytes: a black border may have a few other pixels before it, or padding behind
_NOT_DAMAGE = re.compile(
    r"iCCP|cHRM|gAMA|sRGB|sBIT|tIME|bKGD|JFIF|Adobe|nknown field|"
    r"data: \d{1,2} extraneous bytes|Caution"
)


class _Stored(NamedTuple):
    """Bytes [start, stop) of a file that hold pixels."""

    start: int
    stop: int
    raw: bool = False  # not compressed
    share: int = _LEAST_SHARE


def decode_checked(encoded: bytes, where: str) -> tuple[Image, str | None]:
    """(H, W, 3) uint8 RGB of an encoded image, and why it is suspect, or None.

    Raises:
        DataError: naming `where`, of what does not decode at all.
    """
    image, words = decode_with_warnings(encoded, where)
    return image, suspicion(encoded, words)


def suspicion(encoded: bytes, decoder_warnings: str) -> str | None:
    """Why an image that decodes is suspect, or None.

    Args:
        decoder_warnings: what its decoder printed, "" for nothing.
    """
    try:
        for stored in _stored(encoded):
            at = _hole(encoded, stored)
            if at:
                return f"{at[1] - at[0]} zero bytes at {at[0]} of {len(encoded)}"
    except (struct.error, IndexError):  # a header that its decoder understands, but not we
        pass
    if decoder_warnings and not _NOT_DAMAGE.search(decoder_warnings):
        return decoder_warnings
    return None


def _hole(encoded: bytes, stored: _Stored) -> tuple[int, int] | None:
    """The first run of zeros that no picture explains."""
    start, stop = max(stored.start, 0), min(stored.stop, len(encoded))
    least = bytes(max(_LEAST_RUN, (stop - start) // stored.share))
    at = start
    while (begin := encoded.find(least, at, stop)) >= 0:
        end = begin + len(least)
        rest = encoded[end:stop]
        end += len(rest) - len(rest.lstrip(b"\0"))
        black = stored.raw and (begin <= start + _NEAR or end >= stop - _NEAR)
        if not black:
            return begin, end
        at = end
    return None


def _stored(encoded: bytes) -> Iterator[_Stored]:
    """Where a file keeps its pixels, by its format; nothing where a checksum guards them (PNG)."""
    if encoded[:2] == b"\xff\xd8":
        yield from _jpeg(encoded)
    elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        yield from _webp(encoded)
    elif encoded[:2] == b"BM":
        yield from _bmp(encoded)
    elif encoded[:4] in (b"II*\0", b"MM\0*"):
        yield from _tiff(encoded)
    elif encoded[4:8] == b"jP  " or encoded[:4] == b"\xff\x4f\xff\x51":
        start = encoded.find(b"\xff\x93")  # start of data of the first tile
        yield _Stored(start + 2 if start >= 0 else 0, len(encoded))
    elif encoded[:2] in (b"P5", b"P6"):
        yield from _pnm(encoded)


def _jpeg(encoded: bytes) -> Iterator[_Stored]:
    """The entropy-coded data, unless its Huffman codes give a flat picture zero bits.

    The code of zero bits means the first symbol of its table. Where that is "no change" for DC and
    "end of block" for AC in every table, as optimised tables may have it, zeros are a flat area.
    Otherwise no picture of one scan has a run: the longest in LFW's 8,511 is of 4 bytes.
    """
    at, flat_is_zero, coding = 2, True, 0
    while encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        length = struct.unpack_from(">H", encoded, at + 2)[0]
        if marker == 0xDA:
            stop = encoded.find(b"\xff\xd9", at + 2 + length)
            if not flat_is_zero:
                share = _LEAST_SHARE // 2 if coding in _PROGRESSIVE else _LEAST_SHARE
                if coding in _SEQUENTIAL:
                    share = len(encoded)  # any run
                yield _Stored(at + 2 + length, stop if stop >= 0 else len(encoded), share=share)
            return
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            coding = marker
        if marker == 0xC4:
            table, end = at + 4, at + 2 + length
            while table < end:
                counts = encoded[table + 1 : table + 17]
                is_ac = encoded[table] >> 4
                if not (coding in _PROGRESSIVE and is_ac):
                    flat_is_zero &= encoded[table + 17] == 0
                table += 17 + sum(counts)
        at += 2 + length


def _webp(encoded: bytes) -> Iterator[_Stored]:
    at = 12
    while at + 8 <= len(encoded):
        name, length = struct.unpack_from("<4sI", encoded, at)
        if name in (b"VP8 ", b"VP8L", b"ALPH"):
            yield _Stored(at + 8, at + 8 + length)
        at += 8 + length + length % 2


def _bmp(encoded: bytes) -> Iterator[_Stored]:
    start = struct.unpack_from("<I", encoded, 10)[0]
    compression = struct.unpack_from("<I", encoded, 30)[0]
    yield _Stored(start, len(encoded), raw=compression not in (1, 2))


def _tiff(encoded: bytes) -> Iterator[_Stored]:
    """Strips or tiles of the first image, as one where they follow each other."""
    order = "<" if encoded[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", encoded, 4)[0]
    tags: dict[int, tuple[int, ...]] = {}
    for i in range(struct.unpack_from(order + "H", encoded, at)[0]):
        tag, kind, count = struct.unpack_from(order + "HHI", encoded, at + 2 + 12 * i)
        if kind in (3, 4) and count <= len(encoded):
            form = f"{order}{count}{'H' if kind == 3 else 'I'}"
            place = at + 10 + 12 * i
            if struct.calcsize(form) > 4:
                place = struct.unpack_from(order + "I", encoded, place)[0]
            tags[tag] = struct.unpack_from(form, encoded, place)
    raw = tags.get(259, (1,)) == (1,)
    starts = tags.get(273, tags.get(324, ()))
    lengths = tags.get(279, tags.get(325, ()))
    parts = sorted(zip(starts, lengths, strict=False))
    stops = [start + length for start, length in parts]
    if parts and stops[:-1] == [start for start, _ in parts[1:]]:
        yield _Stored(parts[0][0], stops[-1], raw)
    else:
        for (start, _), stop in zip(parts, stops, strict=True):
            yield _Stored(start, stop, raw)


def _pnm(encoded: bytes) -> Iterator[_Stored]:
    found = re.match(rb"P[56]\s(?:#[^\n]*\n|\s)*\d+\s(?:#[^\n]*\n|\s)*\d+\s+\d+\s", encoded)
    if found:
        yield _Stored(found.end(), len(encoded), raw=True)
