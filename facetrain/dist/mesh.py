"""The process mesh: who this process is among its peers, built once and passed down.

torchrun starts the processes; `Mesh.from_env` reads what it set. At world size 1 there is no
process group and every collective is the identity.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from facetrain.core.errors import UserError

DeviceChoice = Literal["auto", "cpu", "cuda"]


class LostRankError(UserError):
    """A collective failed because another rank died, or did not come within the timeout."""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """One process's place in the job.

    A collective that waits longer than `timeout_seconds`, or whose peer closed its connection,
    raises `LostRankError` (gloo: at once when a peer dies; NCCL: its watchdog ends the process
    after the timeout). torchrun then stops the remaining ranks.
    """

    rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    timeout_seconds: float = 600.0

    @property
    def is_main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    @classmethod
    def single(cls, device: DeviceChoice | torch.device = "cpu") -> "Mesh":
        """A mesh of one process.

        Raises:
            UserError: CUDA was asked for and there is none.
        """
        if not isinstance(device, torch.device):
            device = _local_device(device, 0)
        return cls(rank=0, world_size=1, device=device)

    @classmethod
    def from_env(cls, device: DeviceChoice = "auto") -> "Mesh":
        """The mesh torchrun describes in the environment; a single process without it.

        NCCL joins the ranks on CUDA and gloo on the CPU.

        Args:
            device: `auto` takes CUDA where there is one.

        Raises:
            UserError: the environment contradicts itself, or the device is not there.
            LostRankError: not every rank came in time.
        """
        place = _read_env(os.environ)
        if place is None:
            return cls.single(device)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _end_with_parent()
        rank, world_size, local_rank = place
        return cls.join(rank, world_size, local_rank, device, "env://")

    @classmethod
    def join(
        cls,
        rank: int,
        world_size: int,
        local_rank: int,
        device: DeviceChoice,
        init_method: str,
        timeout_seconds: float = 600.0,
    ) -> "Mesh":
        """Meet the other ranks at `init_method` (`env://`, `file://...` or `tcp://...`).

        Raises:
            UserError: the device is not there.
            LostRankError: not every rank came in time.
        """
        chosen = _local_device(device, local_rank)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        mesh = cls(rank, world_size, chosen, None, timeout_seconds)
        if world_size == 1:
            return mesh
        with named_errors(mesh, "joining the job"):
            dist.init_process_group(
                "nccl" if chosen.type == "cuda" else "gloo",
                init_method=init_method,
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=timeout_seconds),
                device_id=chosen if chosen.type == "cuda" else None,
            )
        return dataclasses.replace(mesh, group=dist.group.WORLD)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.group is not None:
            with named_errors(self, "barrier"):
                dist.barrier(group=self.group)

    def close(self) -> None:
        """Leave the job; the mesh is of no use afterwards."""
        if self.group is not None:
            dist.destroy_process_group()


@contextlib.contextmanager
def named_errors(mesh: Mesh, what: str) -> Iterator[None]:
    """Turn a communication failure inside the block into a `LostRankError` that says where."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not _is_communication(error):
            raise
        raise LostRankError(
            f"rank {mesh.rank} of {mesh.world_size}: {what} failed: every rank must answer within "
            f"{mesh.timeout_seconds:g} s, but one died or did not come ({_first_line(error)}); "
            "see the first error of the other ranks, then start the same command again to resume"
        ) from error


_COMMUNICATION_WORDS = ("gloo", "nccl", "timed out", "timeout", "connection")


def _is_communication(error: Exception) -> bool:
    """Decide by text where needed: gloo reports through plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in _COMMUNICATION_WORDS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _read_env(environ: Mapping[str, str]) -> tuple[int, int, int] | None:
    """(rank, world_size, local_rank) as torchrun sets them; None when it set none of them."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    came = {name: environ[name] for name in names if name in environ}
    if not came:
        return None
    required: tuple[str, ...] = names
    if came.get("WORLD_SIZE", "1") != "1":
        required = (*names, "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in required if name not in environ]
    if missing:
        raise UserError(
            f"the environment must hold all of {', '.join(required)} or none of "
            f"{', '.join(names)}; it holds {came} and lacks {', '.join(missing)}; "
            "start with torchrun, or unset them"
        )
    try:
        rank, world_size, local_rank = (int(came[name]) for name in names)
    except ValueError:
        raise UserError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be integers, got {came}; start with torchrun"
        ) from None
    if not (0 <= rank < world_size and 0 <= local_rank <= rank):
        raise UserError(
            f"0 <= LOCAL_RANK <= RANK < WORLD_SIZE must hold, got {came}; start with torchrun"
        )
    return rank, world_size, local_rank


def _end_with_parent() -> None:
    """Have the kernel end this rank with torchrun's agent, however that ends (Linux).

    A killed agent ends nobody: its ranks would train on, and the same command, started again,
    would find their folder taken.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _local_device(choice: DeviceChoice, local_rank: int) -> torch.device:
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank >= count:
        raise UserError(
            f"a rank needs its own CUDA device, but local rank {local_rank} finds {count}; "
            "start fewer processes on this machine, or use the device 'cpu'"
        )
    return torch.device("cuda", local_rank)
