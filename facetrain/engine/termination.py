"""SIGTERM, which a cluster sends some seconds before SIGKILL: a training ends at a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from facetrain.core.errors import TERMINATED
from facetrain.core.log import logger
from facetrain.dist.collectives import any_rank
from facetrain.dist.mesh import Mesh


class Termination:
    """Whether this job was asked to end."""

    def __init__(self) -> None:
        self._came = False

    def take(self, *_: object) -> None:
        """Note that the job is to end; the handler of the signal."""
        self._came = True

    def due(self, mesh: Mesh, *, at_log: bool) -> bool:
        """Whether to end after this step, the same on every rank.

        Several ranks ask each other only where they wait for each other anyway, to log.
        """
        return (at_log or mesh.group is None) and any_rank(self._came, mesh)

    @staticmethod
    def end(step: int, num_steps: int) -> None:
        """End the process after `step`, which is saved."""
        logger.warning(
            "told to end: step %d of %d is saved, the same command continues there", step, num_steps
        )
        raise SystemExit(TERMINATED)


@contextlib.contextmanager
def termination() -> Iterator[Termination]:
    """Take note of SIGTERM inside the block instead of ending by it; loader workers see to theirs.

    Outside the main thread nothing changes.
    """
    state = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    former = signal.signal(signal.SIGTERM, state.take)
    try:
        yield state
    finally:
        signal.signal(signal.SIGTERM, former)
