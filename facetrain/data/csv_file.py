"""Lines of a CSV file that somebody else wrote."""

import csv
from collections.abc import Iterator
from pathlib import Path

from facetrain.core.errors import DataError


def csv_rows(path: Path, content: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the line and cells of each row that is not empty.

    A byte order mark is left out. Bytes that are not UTF-8 come through as the file system's do,
    for cells name files.

    Args:
        content: what it should hold, for the message.

    Raises:
        DataError: cannot be read, or is no CSV.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
        raise DataError(f"{path}: must be a CSV of {content}, but is no plain file")
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.reader(file)
            for row in rows:
                if row:
                    yield rows.line_num, row
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: must be a CSV of {content}, but: {reason}") from None


def csv_table(path: Path, content: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table of images: `image,attribute,...` and as many cells a line.

    Raises:
        DataError: as `csv_rows`, or no attribute, one twice, a line of another length, or none.
    """
    (_, first), *lines = list(csv_rows(path, content)) or [(0, [])]
    header = [name.strip() for name in first]
    if len(header) < 2 or len(set(header)) < len(header) or not lines:
        raise DataError(
            f"{path}: must have a header image,attribute,... with distinct attributes, and lines "
            f"below it; got {','.join(first)!r:.80} and {len(lines)} lines"
        )
    for number, row in lines:
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {number} must have {len(header)} cells as the header, got "
                f"{','.join(row)!r:.80}"
            )
    return header, [row for _, row in lines]
