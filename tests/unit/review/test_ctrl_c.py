"""Ctrl-C at every line between a review's address on the terminal and its end."""

import subprocess
import sys

PROGRAM = """
import contextlib, os, pathlib, signal, sys, tempfile, threading, types
from facetrain.review import review

LINES = 500  # more than a review runs through before it waits

@contextlib.contextmanager
def serving(run_dir, port):
    session = types.SimpleNamespace(progress=lambda: {"decisions": 0})
    yield types.SimpleNamespace(address="http://there", session=session)

def interrupted_at(line, folder):
    left, came, shown = line, None, []

    def interrupt(when):
        nonlocal came
        if came is None:
            came = when
            os.kill(os.getpid(), signal.SIGINT)

    def trace(frame, event, _):
        nonlocal left
        left -= event == "line"
        if left == 0:
            interrupt("at a line")
        return trace

    def show(text):
        shown.append(text)
        if len(shown) == 2:  # from here on, in this frame and in those that it calls
            sys._getframe(1).f_trace = trace
            sys.settrace(trace)

    late = threading.Timer(0.1, interrupt, ["while it waits"])
    late.start()
    review.review(folder, 0, open_browser=False, show=show)
    sys.settrace(None)
    late.cancel()
    late.join()
    return came

review.serving = serving
with tempfile.TemporaryDirectory() as folder:
    for line in range(1, LINES):
        if (came := interrupted_at(line, pathlib.Path(folder))) == "while it waits":
            break
print(line, came)
"""


def test_a_review_ends_wherever_ctrl_c_falls() -> None:
    """In particular between two lines of what it waits with: a lock held there would be for ever.

    An `Event` that the handler sets does not pass: its `wait` is Python, and holds its lock.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=40
    )
    assert done.returncode == 0, done.stderr
    number, _, came = done.stdout.partition(" ")
    assert int(number) >= 2
    assert came == "while it waits\n"  # every line before that was tried
