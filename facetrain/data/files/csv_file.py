"""Lines of a CSV file that somebody else wrote."""

import csv
from collections.abc import Iterator
from pathlib import Path

from facetrain.core.errors import DataError
from facetrain.core.plain_file import refuse_hole


def csv_rows(path: Path, content: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the line and cells of each row that is not empty.

    A byte order mark is left out. Bytes that are not UTF-8 come through as the file system's do,
    for cells name files. Cells that something else than a comma separates are refused by its name.

    Args:
        content: what it should hold, for the message.

    Raises:
        DataError: cannot be read, or is no CSV.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
        raise DataError(f"{path}: must be a CSV of {content}, but is no plain file")
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            refuse_hole(file.fileno(), path)
            rows = csv.reader(file)
            for row in rows:
                if row:
                    _check_separator(path, content, row)
                    yield rows.line_num, row
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: must be a CSV of {content}, but: {reason}") from None


def _check_separator(path: Path, content: str, row: list[str]) -> None:
    """No file that is read here has lines of one cell."""
    if len(row) > 1:
        return
    for name, separator in (("semicolons", ";"), ("tabs", "\t")):
        if separator in row[0]:
            raise DataError(
                f"{path}: must be a CSV of {content} with commas between the cells, but has {name} "
                f"in {row[0]!r:.80}; write commas (and points in numbers)"
            )
