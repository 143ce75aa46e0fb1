"""One logger; only rank 0 speaks below WARNING."""

import logging
import sys

logger = logging.getLogger("facetrain")


def configure_logging(*, is_main: bool = True) -> None:
    """Send messages to stderr; ranks other than 0 only warn. Called once by the command line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if is_main else logging.WARNING)
    logger.propagate = False
