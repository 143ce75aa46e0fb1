"""Errors a user can act on: the command line prints their text and exits with status 2.

The text says what must hold, what came, and what to change. Broken invariants of our own are
`assert`s, never these.
"""


class UserError(ValueError):
    """Bad input; `str(error)` is the whole message."""


class ConfigError(UserError):
    """A recipe that does not fit its schema."""


class DataError(UserError):
    """A data set, shard, record or image that cannot be read as what it should be."""


class CheckpointError(UserError):
    """A checkpoint or weight file that does not fit the model."""


class DivergenceError(UserError):
    """Training produced a loss that is not finite, or left every sensible range."""
