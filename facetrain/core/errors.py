"""Errors a user can act on: the command line prints their text and exits with their status.

The text says what must hold, what came, and what to change. Broken invariants of our own are
`assert`s, never these.
"""

import errno

BAD_INPUT, DIVERGED, NOT_WRITABLE, INTERRUPTED, UNREAD, TERMINATED = 2, 3, 4, 130, 141, 143
"""Exit statuses; 0 is success, and the last three what a shell gives a command that Ctrl-C, SIGPIPE
or SIGTERM ended."""

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""What the machine is short of for the moment: nothing is wrong with the file at hand."""

CLOSED = (errno.EACCES, errno.EPERM)
"""What a file is that its owner has not opened to this user: nothing is wrong with it either."""


class UserError(ValueError):
    """Bad input; `str(error)` is the whole message."""

    exit_status = BAD_INPUT


class ConfigError(UserError):
    """A recipe that does not fit its schema."""


class DataError(UserError):
    """A data set, shard, record or image that cannot be read as what it should be."""


class CheckpointError(UserError):
    """A checkpoint or weight file that does not fit the model."""


class DivergenceError(UserError):
    """Training produced a loss that is not finite, or left every sensible range."""

    exit_status = DIVERGED


class OutputError(UserError):
    """Output that cannot be written: no space, no permission, or something else in its place."""

    exit_status = NOT_WRITABLE
