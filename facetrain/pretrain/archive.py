"""A training on other labels, or that began with other weights, steps aside for a new one.

Nothing that was computed is deleted.
"""

import itertools
import shutil
from pathlib import Path

from facetrain.core.artifact import read_artifact
from facetrain.core.errors import CheckpointError, DataError
from facetrain.core.log import logger
from facetrain.core.run_folder import CHECKPOINTS, previous_folder
from facetrain.engine.checkpoint import checkpoints_of, read_progress


def trained_on(folder: Path) -> tuple[str, str] | None:
    """What the training in `folder` is of, finished or not: fingerprints.

    Returns:
        Of the data set with its overlays, and of the weights it began with ("" from scratch). None
        where there is nothing to lose: neither a manifest nor a checkpoint that can be read.
    """
    try:
        artifact = read_artifact(folder)
    except DataError as error:  # the training that goes on from its checkpoints writes it anew
        logger.warning("%s", error)
        artifact = None
    if artifact is not None:
        inputs = artifact.manifest["inputs"]
        return inputs["data"], inputs.get("weights", "")
    for checkpoint in reversed(checkpoints_of(folder / CHECKPOINTS)):
        try:
            identity = read_progress(checkpoint).identity
            return identity["data set or overlay"], identity["model.weights"]
        except (CheckpointError, KeyError):
            continue
    return None


def archive_other_training(folder: Path, data: str, weights: str) -> None:
    """Have `folder` hold the training that is of `data` and began with `weights`, or none.

    Another one becomes `<folder>.previous-1` (or -2, ...). Where one of these was of exactly
    this, as after an undo, it comes back.

    Args:
        data: fingerprint of the data set with its overlays.
        weights: of the weights that the training begins with, "" from scratch.
    """
    before = trained_on(folder)
    wanted = data, weights
    if before == wanted:
        return
    former = sorted(folder.parent.glob(f"{folder.name}.previous-*"))
    again = next((one for one in former if trained_on(one) == wanted), None)
    if before is not None:
        names = (previous_folder(folder, n) for n in itertools.count(1))
        free = next(name for name in names if not name.exists())
        folder.rename(free)
        logger.warning(
            "%s: trained on other labels or weights than now; kept as %s", folder, free.name
        )
    if again is not None:
        if folder.exists():  # without a checkpoint
            shutil.rmtree(folder)
        again.rename(folder)
        logger.warning("%s: %s was trained on these labels and is back", folder, again.name)
