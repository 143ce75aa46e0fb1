"""Every command on the workspace, in the order in which it is built."""

from reliability.data_commands import DATA_COMMANDS
from reliability.result_commands import RESULT_COMMANDS
from reliability.stage_commands import STAGE_COMMANDS

COMMANDS = DATA_COMMANDS | STAGE_COMMANDS | RESULT_COMMANDS
"""`demo` is `run` on faces of its own."""
