"""What was decided about every image of a cleaned run: by its cleaner, by a person, on request.

The decision is that of a training which takes up the same overlays. On top of it, if asked, come
the cleaner's suggestions (images move to the people they belong to), its merges (one person under
two names becomes one) and its overlaps (people of an evaluation set leave). A person's word about
an image stands against all but merges, which are of the whole class.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.config import Config
from facetrain.core.errors import DataError
from facetrain.core.run_folder import OVERLAY_FILE, REVIEW
from facetrain.data.cleaned_set import Bools, CleanedSet, Ints, cleaning_folder
from facetrain.data.cleaning_result import Reason
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.shards.shard_set import OnCorrupt
from facetrain.data.stage_data import read_stage_data

UNREADABLE, BENEATH = "unreadable record", "dropped before the cleaning"
_STAYS_DROPPED = (Reason.AMBIGUOUS, Reason.COPY)  # a suggestion is no better founded there


class Choices(Config):
    """What of the cleaner's advice is taken, beside what it keeps and drops."""

    suggestions: bool = False
    """Dropped images go to the identity that they belong to."""
    merges: bool = False
    """One person under two names becomes one."""
    drop_overlap: bool = False
    """Identities that also occur in an evaluation set leave."""


@dataclasses.dataclass(frozen=True)
class DecidedSet:
    """All R rows of a data set, judged or not; labels are those of its shards and overlays."""

    dataset: FaceDataset  # as it was cleaned
    overlays: tuple[Path, ...]  # the decisions, in order
    given: Ints  # (R,) -1 where the record cannot be read
    label: Ints  # (R,) as decided; `given` where an image is not kept
    kept: Bools  # (R,)
    clean_probability: NDArray[np.float32]  # (R,) NaN where not judged
    suggested_label: Ints  # (R,) or -1
    suggested_probability: NDArray[np.float32]  # (R,)
    reason: NDArray[np.object_]  # (R,) text
    duplicate_of: Ints  # (R,) a row, or -1
    merge_label: Ints  # (R,) or -1
    overlap: Bools  # (R,)
    by_person: Bools  # (R,) a review decided
    on_corrupt: OnCorrupt  # what a record that cannot be read does

    @classmethod
    def open(cls, run_dir: Path, choices: Choices) -> "DecidedSet":
        """Read a run that cleaned its labels, with its review, if there is one.

        Raises:
            DataError: its cleaning is not finished, or its data set is not there any more, or is
                another by now; nothing is left.
        """
        cleaned = CleanedSet.open_run(run_dir)
        given_set, cleaning = cleaned.dataset, cleaning_folder(run_dir)
        data = read_stage_data(cleaning)
        assert data is not None
        reviewed = run_dir / REVIEW / OVERLAY_FILE
        review = LabelOverlay.load(reviewed) if reviewed.is_file() else None
        by_person = np.zeros(given_set.num_rows, np.bool_) if review is None else review.source > 0
        overlays = (cleaning / OVERLAY_FILE, *((reviewed,) if by_person.any() else ()))
        after = given_set.with_overlay((*data.overlay, *overlays))
        rows, result = given_set.row, cleaned.result
        given = given_set.base_label.copy()
        given[rows] = given_set.class_ids[given_set.label]
        label, kept = given.copy(), np.zeros(len(given), np.bool_)
        label[after.row], kept[after.row] = after.class_ids[after.label], True

        def over_rows(column: NDArray[Any], absent: Any, kind: Any) -> NDArray[Any]:
            whole = np.full(len(given), absent, kind)
            whole[rows] = column
            return whole

        reason = np.full(len(given), BENEATH, object)
        reason[given_set.base_label < 0] = UNREADABLE
        reason[rows] = np.array(result.reason_names, object)[result.reason]
        copied = np.where(result.duplicate_of >= 0, rows[result.duplicate_of], -1)
        decided = cls(
            given_set,
            overlays,
            given,
            label,
            kept,
            over_rows(result.clean_probability, np.nan, np.float32),
            over_rows(result.suggested_label, -1, np.int64),
            over_rows(result.suggested_probability, 0, np.float32),
            reason,
            over_rows(copied, -1, np.int64),
            over_rows(result.merge_label, -1, np.int64),
            over_rows(result.overlap, False, np.bool_),
            by_person,
            data.on_corrupt,
        )
        decided._take(choices, over_rows(result.reason, -1, np.int64))
        if not kept.any():
            raise DataError(f"{run_dir}: must keep images to write, but keeps none of {len(kept)}")
        return decided

    def _take(self, choices: Choices, reason: Ints) -> None:
        """Apply the advice that was asked for, in place."""
        if choices.suggestions:
            moved = ~self.kept & ~self.by_person & (self.suggested_label >= 0)
            moved &= ~np.isin(reason, _STAYS_DROPPED)
            self.kept[moved] = True
            self.label[moved] = self.suggested_label[moved]
        if choices.merges:
            into = self._merges()
            ids = np.array(sorted(into), np.int64)
            if len(ids):
                place = np.searchsorted(ids, self.label).clip(max=len(ids) - 1)
                found = self.kept & (ids[place] == self.label)
                targets = np.array([into[one] for one in ids.tolist()], np.int64)
                self.label[found] = targets[place[found]]
        if choices.drop_overlap:
            self.kept[self.overlap & ~self.by_person] = False
        self.label[~self.kept] = self.given[~self.kept]

    def _merges(self) -> dict[int, int]:
        """Class -> the class its images go to, along chains; the way round a person chose.

        Where a review put images into a class that the cleaner would dissolve, and none into the
        other, that class stays and takes the other in.
        """
        chosen = set(self.label[self.kept & self.by_person].tolist())
        parent: dict[int, int] = {}

        def root(label: int) -> int:
            while label in parent:
                label = parent[label]
            return label

        advised = self.merge_label >= 0
        pairs = np.unique(np.stack([self.given[advised], self.merge_label[advised]], 1), axis=0)
        for source, target in pairs.tolist():
            source, target = root(source), root(target)
            if source == target:
                continue
            if source in chosen and target not in chosen:
                source, target = target, source
            parent[source] = target
        return {label: root(label) for label in parent}

    def leave_out(self, row: int) -> None:
        """Drop a row whose record turns out to hold no image."""
        self.kept[row], self.label[row], self.reason[row] = False, self.given[row], UNREADABLE

    @property
    def class_ids(self) -> Ints:
        """(C,) labels that keep images, ascending."""
        return np.unique(self.label[self.kept])

    def names(self, class_ids: Sequence[int] | Ints) -> list[str]:
        """What identities are called; "" where nobody named one."""
        return self.dataset.names_of(np.asarray(class_ids, np.int64))
