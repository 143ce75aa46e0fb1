"""One logger; only rank 0 speaks below WARNING."""

import logging
import sys

from facetrain.core.text import printable_lines

logger = logging.getLogger("facetrain")


class _Plain(logging.Formatter):
    """The message alone, with nothing in it that a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def configure_logging(*, is_main: bool = True) -> None:
    """Send messages to stderr; ranks other than 0 only warn. Called once by the command line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if is_main else logging.WARNING)
    logger.propagate = False
