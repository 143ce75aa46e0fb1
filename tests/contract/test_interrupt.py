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


def test_an_interrupt_inside_a_finaliser_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_FINALISER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Exception ignored" not in done.stderr


def test_an_interrupt_inside_exec_is_status_130() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert done.returncode == 130
    assert "the same command continues" in done.stderr
    assert "Traceback" not in done.stderr
