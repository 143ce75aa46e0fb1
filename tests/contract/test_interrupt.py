"""Ctrl-C is status 130, wherever it falls: also into an `exec` or a finaliser."""

import subprocess
import sys

INTERRUPTED = """
import sys
from facetrain import __main__, cli
def interrupted(*arguments, **options):
    exec("raise KeyboardInterrupt")
cli.cli.main = interrupted
__main__.run()
"""


IN_A_FINALISER = """
import time
from facetrain import __main__, cli
class Last:
    def __del__(self):
        raise KeyboardInterrupt
def interrupted(*arguments, **options):
    Last()
    time.sleep(20)
    print("was lost")
cli.cli.main = interrupted
__main__.run()
"""


INTO_ANOTHER_ERROR = """
import os, signal
from facetrain import __main__, cli
def interrupted(*arguments, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        import time
        time.sleep(20)
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape") from None
cli.cli.main = interrupted
__main__.run()
"""


def test_an_interrupt_that_c_code_makes_another_error_of_is_one() -> None:
    """As safetensors does of one that falls into its reading."""
    command = [sys.executable, "-c", INTO_ANOTHER_ERROR]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == (
        "facetrain: interrupted; the same command continues from what is finished\n"
    )


HALF_MADE = """
import sys
from facetrain import __main__, cli
from facetrain.core.errors import UserError
class Half:
    def __init__(self):
        raise UserError("refused")
    def __del__(self):
        self.nowhere
def refused(*arguments, **options):
    Half()
cli.cli.main = refused
__main__.run()
"""


def test_a_message_is_the_last_word() -> None:
    """As of torch's loader, which a bound on descriptors ends half-made."""
    done = subprocess.run([sys.executable, "-c", HALF_MADE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "facetrain: refused\n")


def test_an_interrupt_inside_a_finaliser_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_FINALISER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Exception ignored" not in done.stderr


def test_an_interrupt_inside_exec_is_status_130() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert done.returncode == 130
    assert "the same command continues" in done.stderr
    assert "Traceback" not in done.stderr
