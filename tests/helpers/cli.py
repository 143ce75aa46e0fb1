"""What tests of the command line share."""

from collections.abc import Callable

Call = Callable[..., tuple[int, str, str]]
"""Arguments of `facetrain` -> exit status, stdout, stderr."""
