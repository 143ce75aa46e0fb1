"""A training on other labels steps aside for a new one; nothing that was computed is deleted."""

import itertools
import shutil
from pathlib import Path

from facetrain.core.artifact import read_artifact
from facetrain.core.errors import CheckpointError, DataError
from facetrain.core.log import logger
from facetrain.core.run_folder import CHECKPOINTS, previous_folder
from facetrain.engine.checkpoint import checkpoints_of, read_progress


def trained_on(folder: Path) -> str | None:
    """Fingerprint of the data set and overlays of the training in `folder`, finished or not.

    None where there is nothing to lose: neither a manifest nor a checkpoint that can be read.
    """
    try:
        artifact = read_artifact(folder)
    except DataError as error:  # the training that goes on from its checkpoints writes it anew
        logger.warning("%s", error)
        artifact = None
    if artifact is not None:
        return str(artifact.manifest["inputs"]["data"])
    for checkpoint in reversed(checkpoints_of(folder / CHECKPOINTS)):
        try:
            return read_progress(checkpoint).identity["data set or overlay"]
        except (CheckpointError, KeyError):
            continue
    return None


def archive_other_training(folder: Path, data: str) -> None:
    """Have `folder` hold a training on the labels `data`, or none.

    One on other labels becomes `<folder>.previous-1` (or -2, ...). Where one of these was on
    exactly these labels, as after an undo, it comes back.

    Args:
        data: fingerprint of the data set with its overlays.
    """
    before = trained_on(folder)
    if before == data:
        return
    former = sorted(folder.parent.glob(f"{folder.name}.previous-*"))
    again = next((one for one in former if trained_on(one) == data), None)
    if before is not None:
        names = (previous_folder(folder, n) for n in itertools.count(1))
        free = next(name for name in names if not name.exists())
        folder.rename(free)
        logger.warning("%s: trained on other labels than now; kept as %s", folder, free.name)
    if again is not None:
        if folder.exists():  # without a checkpoint
            shutil.rmtree(folder)
        again.rename(folder)
        logger.warning("%s: %s was trained on these labels and is back", folder, again.name)
