"""`facetrain review`: the page over a finished run, until it is interrupted."""

import contextlib
import os
import signal
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

from facetrain.core.errors import UserError
from facetrain.core.run_folder import JOURNAL_FILE, OVERLAY_FILE, REVIEW
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.review_journal import open_journal
from facetrain.review.review_overlay import refresh
from facetrain.review.server import ReviewServer
from facetrain.review.session import Session

_REDIRECT = "open.html"


@contextlib.contextmanager
def serving(run_dir: Path, port: int) -> Iterator[ReviewServer]:
    """The review of a run, being served in a thread; its overlay is up to date at both ends.

    Raises:
        UserError: no cleaned run, another review of it is open, or the port is taken.
    """
    cleaned = CleanedSet.open_run(run_dir)
    folder = run_dir / REVIEW
    dataset = cleaned.dataset
    with open_journal(folder / JOURNAL_FILE, dataset.base_fingerprint, dataset.num_rows) as journal:
        refresh(folder / OVERLAY_FILE)
        try:
            server = ReviewServer(Session(cleaned, journal), port, run_dir.resolve().name)
        except OSError as error:
            raise UserError(
                f"--port {port}: must be free, but {error.strerror}; leave it out for any free one"
            ) from None
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            refresh(folder / OVERLAY_FILE)


def review(run_dir: Path, port: int, *, open_browser: bool, show: Callable[[str], None]) -> None:
    """Serve the review until SIGINT or SIGTERM; `show` gets its address, and at last what next."""
    with _until_interrupted() as received, serving(run_dir, port) as server:
        show(f"review of {run_dir}: {server.address}")
        show("Ctrl-C ends it; every decision is saved at once")
        redirect = run_dir / REVIEW / _REDIRECT
        try:
            if open_browser:
                write_redirect(redirect, server.address)
                webbrowser.open(redirect.resolve().as_uri())
            received.get()
        finally:
            redirect.unlink(missing_ok=True)
        number = server.session.progress()["decisions"]
    taken = "; `facetrain write` takes them up, and a recipe's `facetrain run` trains on them"
    show(f"\n{number} decisions in {run_dir / REVIEW / OVERLAY_FILE}{taken if number else ''}")


@contextlib.contextmanager
def _until_interrupted() -> Iterator[SimpleQueue[int]]:
    """A queue that SIGINT and SIGTERM put their numbers in, so that the end is an orderly one.

    Not an event: one that is set by a handler, in the thread that is just about to wait for it,
    waits for itself. A `SimpleQueue` may be interrupted at any point.
    """
    received: SimpleQueue[int] = SimpleQueue()
    former = {
        number: signal.signal(number, lambda number, _: received.put(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def write_redirect(redirect: Path, address: str) -> None:
    """A file that leads to the page, for its owner only.

    The browser is given this one: other users of the machine see the arguments it is started with.
    """
    redirect.unlink(missing_ok=True)
    with open(os.open(redirect, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={address}">')
