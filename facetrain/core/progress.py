"""Progress for people: a bar on a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

ItemT = TypeVar("ItemT")


def progress(
    items: Iterable[ItemT], label: str, *, total: int | None = None, unit: str = "it",
    enabled: bool = True,
) -> Iterator[ItemT]:
    """Iterate `items`, showing count, rate and time left on stderr when `enabled`."""
    terminal = sys.stderr.isatty()
    bar: tqdm[ItemT] = tqdm(
        items, desc=label, total=total, unit=unit, disable=not enabled, dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 15.0, leave=terminal,
    )
    return iter(bar)
