"""The lists that `pack` leaves: a line an image, its cells set apart by tabs."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from facetrain.core.artifact import atomic_path

# What would end a cell or a line, or move a terminal's cursor. Other characters that are not
# printable stay (the joiners of Persian and Hindi names, bytes that are not UTF-8): a list is
# matched with names elsewhere.
_UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


def write_list(path: Path, rows: Iterable[Sequence[object]]) -> None:
    r"""Write rows of cells, atomically; control characters in them as `\n`, `\t`, `\x1b`."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        file.writelines("\t".join(_cell(str(cell)) for cell in row) + "\n" for row in rows)


def _cell(text: str) -> str:
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
