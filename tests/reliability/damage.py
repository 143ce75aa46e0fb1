"""Accidents that befall a file: bits, cuts, pages of zeros, bytes lost, doubled or out of order."""

import random
from pathlib import Path

PAGE = 4096


def mutate(path: Path, chance: random.Random) -> str:
    """Damage a file in one of twelve ways; says how."""
    content = bytearray(path.read_bytes())
    if not content:
        path.write_bytes(chance.randbytes(chance.randint(1, 64)))
        return "filled"
    place = chance.randrange(len(content))
    kind = chance.choice(
        ("bit", "bit", "byte", "digit", "cut", "page", "swap", "insert", "remove", "double",
         "empty", "gone")
    )  # fmt: skip
    match kind:
        case "bit":
            content[place] ^= 1 << chance.randrange(8)
        case "byte":
            content[place] = chance.randrange(256)
        case "digit":  # what a text still reads well with
            places = [i for i, byte in enumerate(content) if byte in b"0123456789"] or [place]
            place = chance.choice(places)
            content[place] = ord("0") + (content[place] + chance.randint(1, 9)) % 10
        case "cut":
            del content[place:]
        case "page":
            start = place // PAGE * PAGE
            stop = min(start + PAGE, len(content))
            content[start:stop] = bytes(stop - start)
        case "swap":
            size = min(PAGE, len(content) // 2)
            content[:size], content[-size:] = content[-size:], content[:size]
        case "insert":
            content[place:place] = chance.randbytes(chance.randint(1, 16))
        case "remove":
            del content[place : place + chance.randint(1, 16)]
        case "double":
            content += content[place:]
        case "empty":
            content.clear()
        case _:
            path.unlink()
            return "gone"
    path.write_bytes(content)
    return f"{kind} at {place}"
