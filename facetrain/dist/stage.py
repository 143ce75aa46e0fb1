"""What every stage does around its work: skip when finished, own its folder, mark when done."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from facetrain.core.artifact import (
    Artifact,
    finished,
    read_artifact,
    write_manifest,
)
from facetrain.core.config import Config
from facetrain.core.errors import DataError, UserError
from facetrain.core.lock import folder_lock
from facetrain.core.log import logger
from facetrain.core.run_folder import MANIFEST_FILE
from facetrain.core.text import printable
from facetrain.dist.collectives import any_rank, first_of_ranks
from facetrain.dist.mesh import Mesh


@contextlib.contextmanager
def job_lock(folder: Path, mesh: Mesh) -> Iterator[None]:
    """Own `folder` for all ranks inside the block; see `folder_lock`. A collective call.

    Raises:
        UserError: (on every rank) another job has it, or it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        problem: UserError | None = None
        if mesh.is_main:
            try:
                stack.enter_context(folder_lock(folder))
            except UserError as error:
                problem = error
        found = first_of_ranks(str(problem) if problem else None, mesh)
        if found:
            raise problem or UserError(found)
        yield


def run_stage(
    stage: str,
    config: Config,
    inputs: Mapping[str, str],
    out_dir: Path,
    mesh: Mesh,
    work: Callable[[], Mapping[str, Any]],
    tidy: Callable[[], None] = lambda: None,
) -> Artifact:
    """Run `work` on every rank, unless `out_dir` holds this stage of the same config and inputs.

    The folder is locked from before the first file to after the manifest. A finished stage with a
    damaged file is run again, with a warning.

    Args:
        stage: its name in the manifest.
        inputs: name -> fingerprint of each thing the stage reads.
        work: leaves its files in `out_dir`, resuming what it finds there, and returns the
            stage's numbers (rank 0's count).
        tidy: removes what only an interrupted stage needs; called on rank 0 when all is done.

    Returns:
        The finished stage, on every rank.

    Raises:
        UserError: another job is writing there, another stage finished there, or what `work`
            raises.
    """
    read_only = mesh.is_main and out_dir.is_dir() and not os.access(out_dir, os.W_OK)
    if any_rank(read_only, mesh):  # a finished stage may lie where nobody can take a lock
        done = _finished(stage, config, inputs, out_dir, mesh)
        if done is not None:
            return done
    with job_lock(out_dir, mesh):
        done = _finished(stage, config, inputs, out_dir, mesh)
        if done is not None:
            return done
        _refuse_another(stage, out_dir, mesh)
        started = time.time()
        if mesh.is_main:
            (out_dir / MANIFEST_FILE).unlink(missing_ok=True)
            logger.info("%s: %s started", printable(out_dir), stage)
        mesh.barrier()
        metrics = work()
        mesh.barrier()
        if mesh.is_main:
            world_size = mesh.world_size
            write_manifest(
                out_dir, stage, config, inputs, metrics, started=started, world_size=world_size
            )
            tidy()
        mesh.barrier()
    artifact = read_artifact(out_dir)
    assert artifact is not None
    return artifact


def _refuse_another(stage: str, out_dir: Path, mesh: Mesh) -> None:
    """Return unless another stage finished in `out_dir`: its manifest would be lost.

    Raises:
        UserError: (on every rank) one did.
    """
    found: str | None = None
    if mesh.is_main:
        with contextlib.suppress(DataError):  # damaged, or a manifest from elsewhere: nobody's
            other = read_artifact(out_dir)
            if other is not None and other.manifest["stage"] != stage:
                other.verify()
                found = (
                    f"{printable(out_dir)}: must be a folder for the stage {stage}, but holds the "
                    f"finished stage {other.manifest['stage']}; give another --out"
                )
    if told := first_of_ranks(found, mesh):
        raise UserError(told)


def _finished(
    stage: str, config: Config, inputs: Mapping[str, str], out_dir: Path, mesh: Mesh
) -> Artifact | None:
    """The stage if rank 0, which alone reads its files to verify them, finds it finished."""
    done = finished(out_dir, stage, config, inputs) if mesh.is_main else None
    if not any_rank(done is not None, mesh):
        return None
    if mesh.is_main:
        logger.info("%s: finished before, skipped", printable(out_dir))
    return done or read_artifact(out_dir)
