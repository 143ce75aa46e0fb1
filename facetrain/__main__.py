"""The `facetrain` command, also as `python -m facetrain` for torchrun."""

import _thread
import os
import sys
import threading
from collections.abc import Sequence

_INTERRUPTED = 130  # as in core/errors.py, which may be what was being imported


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and leave with its exit status wherever Ctrl-C falls."""
    sys.unraisablehook = _interrupt_again
    _open_streams()
    try:
        from facetrain.cli import main

        main(arguments)
    except KeyboardInterrupt:
        print("\nfacetrain: interrupted; the same command continues", file=sys.stderr)
    except SystemExit as ended:
        if ended.code:  # the message was the last word: not that of what was only half made
            sys.unraisablehook = lambda ignored: None
        if ended.code != _INTERRUPTED:
            raise
    else:
        return
    # Not by Python's own way: where the interrupt fell into an `exec`, as under an import of
    # torch, that would end the process by a signal although the interrupt was handled.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(_INTERRUPTED)


def _open_streams() -> None:
    """Open the standard streams that are closed: the next file would take the number of one.

    What libraries say would then be written into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(handle, True)
            setattr(sys, name, os.fdopen(handle, "w" if number else "r", closefd=False))


def _interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """An interrupt that fell into a finaliser, where Python only prints it, comes once more."""
    if ignored.exc_type is KeyboardInterrupt:  # not at once: that would fall into this hook
        threading.Timer(0.02, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(ignored)


if __name__ == "__main__":
    run()
