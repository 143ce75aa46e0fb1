"""Progress for people: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from facetrain.core.log import logger

ItemT = TypeVar("ItemT")

_SECONDS_BETWEEN_LINES = 15.0


def progress(
    items: Iterable[ItemT],
    label: str,
    *,
    total: int | None = None,
    unit: str = "it",
    enabled: bool = True,
) -> Iterator[ItemT]:
    """Iterate `items`, showing count, rate and time left on stderr when `enabled`."""
    if not enabled:
        return iter(items)
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not sys.stderr.isatty():
        return _with_lines(items, label, total, unit)
    bar: tqdm[ItemT] = tqdm(items, desc=label, total=total, unit=unit, dynamic_ncols=True)
    return iter(bar)


def _with_lines(
    items: Iterable[ItemT], label: str, total: int | None, unit: str
) -> Iterator[ItemT]:
    started = last = time.monotonic()
    for count, item in enumerate(items):
        now = time.monotonic()
        if now - last > _SECONDS_BETWEEN_LINES:
            last, rate = now, count / (now - started)
            share = f" of {total}" if total is not None else ""
            left = f", {(total - count) / rate:.0f} s left" if total is not None and count else ""
            logger.info("%s: %d%s %s, %.1f/s%s", label, count, share, unit, rate, left)
        yield item
