"""What every stage does around its work: skip when finished, mark when done."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from facetrain.core.artifact import (
    MANIFEST,
    Artifact,
    finished,
    read_artifact,
    write_manifest,
)
from facetrain.core.config import Config
from facetrain.core.log import logger
from facetrain.dist.collectives import any_rank
from facetrain.dist.mesh import Mesh


def run_stage(
    stage: str,
    config: Config,
    inputs: Mapping[str, str],
    out_dir: Path,
    mesh: Mesh,
    work: Callable[[], Mapping[str, Any]],
) -> Artifact:
    """Run `work` on every rank, unless `out_dir` holds this stage of the same config and inputs.

    Args:
        stage: its name in the manifest.
        inputs: name -> fingerprint of each thing the stage reads.
        work: leaves its files in `out_dir`, resuming what it finds there, and returns the
            stage's numbers (rank 0's count).

    Returns:
        The finished stage, on every rank.
    """
    done = finished(out_dir, stage, config, inputs)
    if not any_rank(done is None, mesh):
        assert done is not None
        logger.info("%s: finished before, skipped", out_dir)
        return done
    started = time.time()
    if mesh.is_main:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / MANIFEST).unlink(missing_ok=True)
    mesh.barrier()
    metrics = work()
    mesh.barrier()
    if mesh.is_main:
        world_size = mesh.world_size
        write_manifest(
            out_dir, stage, config, inputs, metrics, started=started, world_size=world_size
        )
    mesh.barrier()
    artifact = read_artifact(out_dir)
    assert artifact is not None
    return artifact
