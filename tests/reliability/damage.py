"""Accidents that befall a file: bits, cuts, pages of zeros, bytes lost, doubled or out of order."""

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = 4096
_SIZES = (16, 512, PAGE)


def _bit(content: bytearray, place: int, chance: random.Random) -> None:
    content[place] ^= 1 << chance.randrange(8)


def _byte(content: bytearray, place: int, chance: random.Random) -> None:
    content[place] = chance.randrange(256)


def _digit(content: bytearray, place: int, chance: random.Random) -> None:
    """What a text still reads well with."""
    places = [i for i, byte in enumerate(content) if byte in b"0123456789"] or [place]
    place = chance.choice(places)
    content[place] = ord("0") + (content[place] + chance.randint(1, 9)) % 10


def _number(content: bytearray, place: int, chance: random.Random) -> None:
    """A number of a text becomes another kind of number."""
    digits = [i for i, byte in enumerate(content) if byte in b"0123456789"] or [place]
    start = stop = chance.choice(digits)
    while stop < len(content) and content[stop] in b"0123456789":
        stop += 1
    content[start:stop] = chance.choice((b"nan", b"-1", b"1e999", b"", b"0x1", b"9" * 30, b"1_0"))


def _cut(content: bytearray, place: int, chance: random.Random) -> None:
    del content[place:]


def _to_a_page(content: bytearray, place: int, chance: random.Random) -> None:
    size = chance.choice(_SIZES)
    del content[place // size * size :]


def _zero_page(content: bytearray, place: int, chance: random.Random) -> None:
    start = place // PAGE * PAGE
    stop = min(start + PAGE, len(content))
    content[start:stop] = bytes(stop - start)


def _fill(content: bytearray, place: int, chance: random.Random) -> None:
    stop = chance.randint(place, min(len(content), place + 4 * PAGE))
    content[place:stop] = chance.choice((b"\x00", b"\xff", b" ")) * (stop - place)


def _ends(content: bytearray, place: int, chance: random.Random) -> None:
    """The first block and the last in each other's place."""
    size = min(PAGE, len(content) // 2)
    if size:
        content[:size], content[-size:] = content[-size:], content[:size]


def _shuffle(content: bytearray, place: int, chance: random.Random) -> None:
    size = chance.choice(_SIZES)
    blocks = [content[i : i + size] for i in range(0, len(content), size)]
    chance.shuffle(blocks)
    content[:] = b"".join(blocks)


def _insert(content: bytearray, place: int, chance: random.Random) -> None:
    content[place:place] = chance.randbytes(chance.randint(1, 16))


def _remove(content: bytearray, place: int, chance: random.Random) -> None:
    del content[place : place + chance.randint(1, 16)]


def _double(content: bytearray, place: int, chance: random.Random) -> None:
    content += content[place:]


def _append(content: bytearray, place: int, chance: random.Random) -> None:
    size = chance.choice((1, 4, 100, PAGE))
    content += chance.choice((bytes(size), b"\n" * size, chance.randbytes(size)))


def _lines(content: bytearray, place: int, chance: random.Random) -> None:
    """A line lost, doubled, or out of order."""
    lines = content.splitlines(keepends=True)
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(3):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    content[:] = b"".join(lines)


def _transferred(content: bytearray, place: int, chance: random.Random) -> None:
    """As what takes every file for a text would leave it: line ends, a mark, other letters."""
    text = bytes(content)
    content[:] = chance.choice((
        text.replace(b"\n", b"\r\n"),
        text.replace(b"\r\n", b"\n"),
        b"\xef\xbb\xbf" + text,
        text.decode("latin-1").encode("utf-16"),
        text.decode("latin-1").encode("utf-8"),
        text.upper(),
    ))  # fmt: skip


def _retyped(content: bytearray, place: int, chance: random.Random) -> None:
    """JSON, or a line of it, with a value of another type; of another file a bit."""
    lines = content.splitlines(keepends=True)
    number = chance.randrange(len(lines))
    for first, last in ((0, len(lines)), (number, number + 1)):
        with contextlib.suppress(ValueError):
            value = retyped(json.loads(b"".join(lines[first:last])), chance)
            lines[first:last] = [bytearray(json.dumps(value).encode() + b"\n")]
            content[:] = b"".join(lines)
            return
    _bit(content, place, chance)


def retyped(value: Any, chance: random.Random) -> Any:
    """What JSON holds, with a value somewhere in it gone, of another type, or another key."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return chance.choice(_VALUES)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = chance.choice(keys)
    if chance.random() < 0.2:
        del value[key]
    elif isinstance(value, dict) and chance.random() < 0.1:
        value[chance.choice(("x", "", "\ud800"))] = 1
    else:
        value[key] = retyped(value[key], chance)
    return value


_VALUES = (
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 10**30, 2**63, 10**400, "", "x", "5",
    "\ud800", "\x1b[31m", "../..", "a\0b", [], {}, [None], [[1]], {"x": 1},
)  # fmt: skip


def _empty(content: bytearray, place: int, chance: random.Random) -> None:
    content.clear()


_DAMAGES: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    _bit, _bit, _bit, _byte, _digit, _digit, _number, _cut, _to_a_page, _zero_page, _fill, _ends,
    _shuffle, _insert, _remove, _double, _append, _lines, _transferred, _empty, _retyped, _retyped,
)  # fmt: skip


def mutate(path: Path, chance: random.Random, others: list[Path]) -> str:
    """Damage a file in one of many ways, its time perhaps as it was; says how.

    Args:
        others: files that may come in its place: of another run, or an older one.
    """
    state = path.stat()
    content = bytearray(path.read_bytes())
    if chance.random() < 0.05:
        path.unlink()
        return "gone"
    if others and chance.random() < 0.15:
        other = chance.choice(others)
        content[:] = other.read_bytes()
        how = f"as {other.name} of {other.parent.name}"
    elif not content:
        content += chance.randbytes(chance.randint(1, 64))
        how = "filled"
    else:
        place = chance.randrange(len(content))
        damage = chance.choice(_DAMAGES)
        damage(content, place, chance)
        how = f"{damage.__name__[1:]} at {place}"
    path.write_bytes(content)
    when = chance.choice((None, state.st_mtime_ns, 0, 2**61))
    if when is not None:  # kept by what copied it, or by a clock that is wrong
        os.utime(path, ns=(when, when))
        how += f", dated {when}"
    return how
