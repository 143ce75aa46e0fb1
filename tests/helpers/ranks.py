"""Processes for tests: a pool of ranks over gloo that runs function after function.

Starting a rank costs seconds (it imports torch), so a pool lives for the whole test session. A
function that fails or hangs on one rank fails its own test, and the next test gets a new pool.
"""

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from facetrain.dist.mesh import Mesh

TIMEOUT_SECONDS = 60.0
"""Longest wait for one function on all ranks: a deadlock, not a slow machine."""


def _serve(rank: int, world_size: int, init_method: str, pipe: Connection) -> None:
    """One rank: join, then answer (function, arguments) until told to stop with None."""
    torch.set_num_threads(1)
    mesh = Mesh.join(rank, world_size, rank, "cpu", init_method, TIMEOUT_SECONDS)
    while (job := pipe.recv()) is not None:
        function, arguments = job
        try:
            pipe.send((True, function(mesh, *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    mesh.close()


class Ranks:
    """`run(function, *arguments)` calls `function(mesh, *arguments)` on every rank."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The ranks' results in rank order; world size 1 runs in the test's own process."""
        if self.world_size == 1:
            return [function(Mesh.single(), *arguments)]
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, arguments))
        return self._collect()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        init_method = f"file://{tempfile.mkdtemp()}/store"
        for rank in range(self.world_size):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, self.world_size, init_method, there), daemon=True
            )
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)

    def _collect(self) -> list[Any]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        waiting = dict(zip(self._pipes, range(self.world_size), strict=True))
        results: dict[int, Any] = {}
        failures: list[str] = []
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pipe in wait(list(waiting), left):
                assert isinstance(pipe, Connection)
                rank = waiting.pop(pipe)
                try:
                    succeeded, value = pipe.recv()
                except EOFError:
                    succeeded, value = False, "the process ended"
                if succeeded:
                    results[rank] = value
                else:
                    # The others most likely wait for this rank, which left; give them a moment.
                    failures.append(f"rank {rank}: {value}")
                    deadline = min(deadline, time.monotonic() + 1.0)
        failures += [f"rank {rank}: no answer" for rank in waiting.values()]
        if failures:
            self.close()
            raise AssertionError(f"of {self.world_size} ranks these failed\n" + "\n".join(failures))
        return [results[rank] for rank in range(self.world_size)]

    def close(self) -> None:
        """End the processes; a later `run` starts new ones."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(10)
        self._processes, self._pipes = [], []
