"""Step-granular checkpoints: atomic, the last few kept, loadable at another world size.

One folder a checkpoint: tensors through `dist.distributed_checkpoint`, and `progress.json`. It
is written under a temporary name by all ranks and renamed by rank 0, so a folder named
`step_*` is always whole.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from facetrain.core.artifact import read_json, write_json
from facetrain.core.errors import CheckpointError
from facetrain.dist.distributed_checkpoint import ShardedRows, save_state
from facetrain.dist.mesh import Mesh

_PROGRESS = "progress.json"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are kept.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, mesh: Mesh, keep: int) -> None:
        self.folder, self.mesh, self.keep = folder, mesh, keep
        if mesh.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            for abandoned in folder.glob(".step_*"):
                shutil.rmtree(abandoned)
        mesh.barrier()

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self.folder.glob("step_*"))

    def latest(self) -> Path | None:
        """The newest whole checkpoint, if any."""
        return self.all()[-1] if self.all() else None

    def save(
        self, step: int, tensors: Mapping[str, Tensor | ShardedRows], progress: Mapping[str, Any]
    ) -> Path:
        """Write the state after `step` steps; called by every rank. Returns its folder."""
        final = self.folder / f"step_{step:010d}"
        temporary = self.folder / f".{final.name}"
        if final.exists():  # resumed exactly here
            return final
        save_state(dict(tensors), temporary, self.mesh)
        if self.mesh.is_main:
            write_json(temporary / _PROGRESS, dict(progress))
            temporary.rename(final)
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old.rename(old.with_name(f".{old.name}")))
        self.mesh.barrier()
        return final


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `progress` was given to `Checkpoints.save`.

    Raises:
        CheckpointError: the folder holds no readable progress.
    """
    try:
        progress: dict[str, Any] = read_json(checkpoint / _PROGRESS)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint}: must be a whole checkpoint; {error}; delete the folder to resume "
            "from the one before"
        ) from None
    return progress
