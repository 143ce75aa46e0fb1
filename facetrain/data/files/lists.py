"""Lists, a line an image or a pair: those that `pack` leaves, and those that others wrote."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import DataError
from facetrain.core.plain_file import read_plain

# What would end a cell or a line, or move a terminal's cursor. Other characters that are not
# printable stay (the joiners of Persian and Hindi names, bytes that are not UTF-8): a list is
# matched with names elsewhere.
_UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


def text_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Lines that are not empty, stripped, with their numbers from 1.

    UTF-8, or UTF-16 where a byte order mark says so.

    Raises:
        DataError: no such file, or no text, or none in it.
    """
    must = f"{path}: must be a text file of lines {what!r}"
    try:
        content = read_plain(path)
    except OSError as error:
        raise DataError(f"{must}, but cannot be read: {error.strerror}") from None
    coding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(coding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{must}, but byte {error.start} is no {coding.upper()}; save it as UTF-8"
        ) from None
    # Not `splitlines`, for which a form feed or U+2028 in a name ends a line as well.
    parted = enumerate(io.StringIO(text, newline=None), 1)
    lines = [(number, line.strip()) for number, line in parted]
    if not (kept := [one for one in lines if one[1]]):
        raise DataError(f"{must}, but has none")
    return kept


def write_list(path: Path, rows: Iterable[Sequence[object]]) -> None:
    r"""Write rows of cells, atomically; control characters in them as `\n`, `\t`, `\x1b`."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        file.writelines("\t".join(_cell(str(cell)) for cell in row) + "\n" for row in rows)


def _cell(text: str) -> str:
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
