"""Where every image stands: as the cleaner left it, changed by the decisions that hold."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.review.cleaned_run import Bools, CleanedRun, Ints
from facetrain.review.journal import ACTIONS, Decision


class _Before(NamedTuple):
    """What a decision has overwritten."""

    images: Ints
    label: Ints
    kept: Bools
    action: NDArray[np.int8]


@dataclasses.dataclass
class Standing:
    """Label and use of N images; decisions are taken in and taken back in order."""

    label: Ints  # (N,) the identity the image is with, or was dropped from
    kept: Bools  # (N,)
    action: NDArray[np.int8]  # (N,) index into ACTIONS of what a person said of it, or -1
    arrived: dict[int, set[int]]  # identity -> images that are with it and came as another's
    merges: list[tuple[int, int]]  # (from, into), in order
    _run: CleanedRun
    _before: list[_Before]

    @classmethod
    def after_cleaning(cls, run: CleanedRun) -> "Standing":
        """As the cleaner left it."""
        action = np.full(len(run.kept), -1, np.int8)
        standing = cls(run.label.copy(), run.kept.copy(), action, {}, [], run, [])
        for image in np.flatnonzero(run.label != run.dataset.label).tolist():
            standing.arrived.setdefault(int(run.label[image]), set()).add(image)
        return standing

    def images_of(self, rows: tuple[int, ...]) -> Ints:
        """The images with these rows of the data set; rows that are not in use are left out."""
        used = self._run.dataset.row
        place = np.searchsorted(used, rows).clip(max=len(used) - 1)
        found: Ints = place[used[place] == rows]
        return found

    def identity(self, class_id: int) -> int:
        """The number of an identity, or -1 where the data set has none of this class id."""
        class_ids = self._run.dataset.class_ids
        place = min(int(np.searchsorted(class_ids, class_id)), len(class_ids) - 1)
        return place if class_ids[place] == class_id else -1

    def now(self, identity: int) -> int:
        """The identity that this one has been merged into, or itself."""
        into: dict[int, int] = {}
        for source, target in self.merges:
            into.pop(target, None)  # merged back: it stands for itself again
            into[source] = target
        while identity in into:
            identity = into[identity]
        return identity

    def take(self, decision: Decision) -> Ints:
        """Take a decision in; returns the images it is about."""
        images = self.images_of(decision.rows)
        before = _Before(images, self.label[images], self.kept[images], self.action[images].copy())
        self._before.append(before)
        label = np.full(len(images), self.identity(decision.label))
        kept = np.full(len(images), decision.kept)
        self._set(images, label, kept, np.int8(ACTIONS.index(decision.action)))
        if decision.action == "merge":
            self.merges.append((self.identity(decision.merged), self.identity(decision.label)))
        return images

    def take_back(self, decision: Decision) -> Ints:
        """Take the latest decision back; returns the images it was about."""
        images, label, kept, action = self._before.pop()
        self._set(images, label, kept, action)
        if decision.action == "merge":
            self.merges.pop()
        return images

    def _set(
        self, images: Ints, label: Ints, kept: Bools, action: NDArray[np.int8] | np.int8
    ) -> None:
        home = self._run.dataset.label
        for image in images.tolist():
            if (was := int(self.label[image])) != home[image]:
                self.arrived[was].discard(image)
        self.label[images], self.kept[images], self.action[images] = label, kept, action
        for image in images.tolist():
            if (now := int(self.label[image])) != home[image]:
                self.arrived.setdefault(now, set()).add(image)
