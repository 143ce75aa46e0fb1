"""Step-granular checkpoints: atomic, tested, the last few kept, loadable at another world size.

One folder a checkpoint: tensors through `dist.distributed_checkpoint`, and `progress.json`, which
holds a digest of each of their files and of itself. It is written under a temporary name by all
ranks and renamed by rank 0, so a folder named `step_*` is always whole, unless it was damaged
since: then it is passed over for the one before.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from facetrain.core.artifact import Sealed, read_sealed, set_aside, write_sealed
from facetrain.core.digest import file_digest
from facetrain.core.errors import CheckpointError, DataError
from facetrain.core.log import logger
from facetrain.core.text import printable
from facetrain.dist.collectives import first_of_ranks, gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.dist.sharded_rows import ShardedRows

_PROGRESS = "progress.json"


class Progress(Sealed):
    """Where a training stood at a checkpoint, beside its tensors."""

    step: int
    identity: dict[str, str]
    """What must be the same to go on from here."""
    world_size: int
    optimizer_state: list[str]
    loss_scale: dict[str, float]
    first_loss: float
    metrics: dict[str, Any]
    files: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    """Name -> digest of the files beside it; filled in by `Checkpoints.save`."""


class Checkpoints:
    """The checkpoints of one run, whose folder this job owns."""

    def __init__(self, folder: Path, mesh: Mesh, keep: int) -> None:
        self.folder, self.mesh, self.keep = folder, mesh, keep
        if mesh.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            for abandoned in folder.glob(".step_*"):
                shutil.rmtree(abandoned)
        mesh.barrier()

    def latest(self) -> Path | None:
        """The newest checkpoint, if any."""
        return max(checkpoints_of(self.folder), default=None)

    def newest_whole(self) -> tuple[Path, Progress] | None:
        """The newest checkpoint that is as it was written; damaged ones before it step aside.

        A collective call that reads the whole checkpoint once.
        """
        for checkpoint in reversed(checkpoints_of(self.folder)):
            problem = _damage(checkpoint, self.mesh)
            if problem is None:
                return checkpoint, read_progress(checkpoint)
            if self.mesh.is_main:
                set_aside(checkpoint, f"{problem}; going on from the checkpoint before")
            self.mesh.barrier()
        return None

    def save(self, tensors: Mapping[str, Tensor | ShardedRows], progress: Progress) -> Path:
        """Write the state at `progress`; called by every rank. Returns its folder."""
        final = self.folder / f"step_{progress.step:010d}"
        temporary = self.folder / f".{final.name}"
        if final.exists():  # resumed exactly here
            return final
        from facetrain.dist.distributed_checkpoint import save_state  # a second to import

        save_state(dict(tensors), temporary, self.mesh)
        names = sorted(path.name for path in temporary.iterdir()) if self.mesh.is_main else []
        files = _digests(temporary, gather_objects(names, self.mesh)[0], self.mesh)
        if self.mesh.is_main:
            write_sealed(temporary / _PROGRESS, progress.model_copy(update={"files": files}))
            temporary.rename(final)
            for old in checkpoints_of(self.folder)[: -self.keep]:
                shutil.rmtree(old.rename(old.with_name(f".{old.name}")))
        self.mesh.barrier()
        return final


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def newest_whole(folder: Path, mesh: Mesh) -> Path:
    """The newest checkpoint of a training elsewhere that is as it was written; nothing is moved.

    A collective call that reads the whole checkpoint once.

    Raises:
        CheckpointError: there is none.
    """
    for checkpoint in reversed(checkpoints_of(folder)):
        problem = _damage(checkpoint, mesh)
        if problem is None:
            return checkpoint
        logger.warning("%s; taking the checkpoint before", problem)
    raise CheckpointError(
        f"{printable(folder)}: must hold a whole checkpoint, with the class centres, but there is "
        "none; train again, or copy the folder with them"
    )


def read_progress(checkpoint: Path) -> Progress:
    """What `progress` was given to `Checkpoints.save`; the other files are not looked at.

    Raises:
        CheckpointError: the folder holds no such progress, or that of another step.
    """
    try:
        progress = read_sealed(checkpoint / _PROGRESS, Progress)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if checkpoint.name != f"step_{progress.step:010d}":
        raise CheckpointError(
            f"{printable(checkpoint)}: must be of the step that its name says, but is of "
            f"{progress.step}"
        )
    return progress


def _damage(checkpoint: Path, mesh: Mesh) -> str | None:
    """What is wrong with a checkpoint, on every rank; None for a whole one."""
    problem: str | None = None
    try:
        files: dict[str, str] = read_progress(checkpoint).files
        problem = None if files else f"{printable(checkpoint)}: names no files"
    except CheckpointError as error:
        files, problem = {}, str(error)
    # Rank 0's list: all ranks verify the same files, whatever each of them sees.
    names = gather_objects(sorted(files), mesh)[0]
    found = _digests(checkpoint, names, mesh)
    bad = [name for name in names if found[name] != files.get(name)]
    if bad and problem is None:
        problem = (
            f"{printable(checkpoint / bad[0])}: must be as it was written, but is missing or has "
            "changed since"
        )
    return first_of_ranks(problem, mesh)


def _digests(folder: Path, names: Sequence[str], mesh: Mesh) -> dict[str, str]:
    """Name -> digest ("" of what cannot be read), each rank reading its share; collective."""
    own: dict[str, str] = {}
    for name in names[mesh.rank :: mesh.world_size]:
        try:
            own[name] = file_digest(folder / name)
        except DataError:
            own[name] = ""
    return {name: digest for part in gather_objects(own, mesh) for name, digest in part.items()}
