"""The journal of a review as a label overlay, composed after the cleaner's.

It holds the images that a person decided, and no others.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import fingerprint
from facetrain.core.lock import file_lock
from facetrain.core.run_folder import JOURNAL_FILE
from facetrain.data.overlay import LabelOverlay, overlay_file
from facetrain.data.review_journal import Journal, read_journal

SOURCE = "review"


def overlay_of(journal: Journal) -> LabelOverlay:
    """What follows from the decisions that hold, later ones over earlier ones."""
    label = np.full(journal.num_rows, -1)
    kept = np.ones(journal.num_rows, np.bool_)
    for decision in journal.history.done:
        rows = list(decision.rows)
        label[rows], kept[rows] = decision.labels, decision.kept
    return LabelOverlay.make(
        label,
        kept,
        source=label >= 0,
        source_names=("", SOURCE),
        dataset_fingerprint=journal.dataset_fingerprint,
    )


def refresh(path: Path) -> None:
    """Remake the overlay that `path` names, where a journal lies beside it and says otherwise.

    A review that was killed, or is still open, has decisions that its overlay lacks. Equal
    decisions give equal bytes, so whoever read the overlay before need not read it again.

    Args:
        path: an overlay, or a folder with one, of any origin.
    """
    file = overlay_file(path)
    journal = file.with_name(JOURNAL_FILE)
    if not journal.is_file():
        return
    overlay = overlay_of(read_journal(journal))
    with tempfile.TemporaryDirectory() as elsewhere:  # other commands may be doing the same
        new = Path(elsewhere) / file.name
        overlay.save(new)
        if file.is_file() and fingerprint(file) == fingerprint(new):
            return
    with file_lock(file):
        overlay.save(file)


def decides(overlay: Path) -> bool:
    """Whether a review's overlay is there and decides any image."""
    return overlay.is_file() and bool(LabelOverlay.load(overlay).source.any())


def decided_rows(overlays: Sequence[Path], num_rows: int) -> NDArray[np.bool_]:
    """Which rows of a data set (num_rows,) a person decided, in any of its overlays."""
    decided = np.zeros(num_rows, np.bool_)
    for path in overlays:
        overlay = LabelOverlay.load(path)
        if SOURCE in overlay.source_names:
            decided |= overlay.source == overlay.source_names.index(SOURCE)
    return decided
