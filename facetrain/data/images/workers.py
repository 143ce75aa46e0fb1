"""An ordered map over processes, for commands that decode many images."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from facetrain.core.errors import UserError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_AHEAD = 4  # items in flight a process: enough to hide a slow one, little enough to hold


def ordered_map(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], workers: int
) -> Iterator[ResultT]:
    """Yield `function(item)` in the order of `items`, computed in `workers` spawned processes.

    With one worker it runs here. At most a few items a worker are in flight, so memory stays
    bounded whatever the consumer's pace.

    Raises:
        UserError: a worker process died.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    spawn = multiprocessing.get_context("spawn")
    flying: deque[Future[ResultT]] = deque()
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker) as pool:
        try:
            for item in items:
                with _without_ctrl_c():  # a process that starts here is deaf to it from birth
                    flying.append(pool.submit(function, item))
                if len(flying) >= _AHEAD * workers:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process died: give it more memory or use fewer workers; a script of "
                "your own must call this under `if __name__ == '__main__':`"
            ) from None
        finally:
            for future in flying:
                future.cancel()


def _start_worker() -> None:
    """One thread a process, and an end with the parent: a killed parent leaves no orphans.

    Ctrl-C reaches every process of a terminal; the parent's one message is enough.
    """
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Put off SIGINT inside the block; a process started there inherits that."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
