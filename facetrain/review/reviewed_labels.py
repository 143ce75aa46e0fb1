"""The label and use of every image: as the cleaner left them, changed by the decisions."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.data.cleaned_set import Bools, CleanedSet, Ints, class_place
from facetrain.data.review_journal import ACTIONS, Decision


class _Before(NamedTuple):
    """What a decision has overwritten."""

    images: Ints
    label: Ints
    kept: Bools
    action: NDArray[np.int8]


@dataclasses.dataclass
class ReviewedLabels:
    """Label and use of N images; decisions are taken in and taken back in order."""

    label: Ints  # (N,) the identity the image is with, or was dropped from
    kept: Bools  # (N,)
    action: NDArray[np.int8]  # (N,) index into ACTIONS of what a person said of it, or -1
    arrived: dict[int, set[int]]  # identity -> images that are with it and came as another's
    merges: list[tuple[int, int]]  # (from, into), in order
    _cleaned: CleanedSet
    _before: list[_Before]

    @classmethod
    def after_cleaning(cls, cleaned: CleanedSet) -> "ReviewedLabels":
        """As the cleaner left it."""
        label, kept = cleaned.label_after.copy(), cleaned.kept_after.copy()
        labels = cls(label, kept, np.full(len(kept), -1, np.int8), {}, [], cleaned, [])
        for image in np.flatnonzero(label != cleaned.dataset.label).tolist():
            labels.arrived.setdefault(int(label[image]), set()).add(image)
        return labels

    def images_of(self, rows: tuple[int, ...]) -> Ints:
        """The images with these rows of the data set; rows that are not in use are left out."""
        place = class_place(self._cleaned.dataset.row, rows)
        return place[place >= 0]

    def identity(self, class_id: int) -> int:
        """The number of an identity, or -1 where the data set has none of this class id."""
        return int(class_place(self._cleaned.dataset.class_ids, class_id))

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
        dataset = self._cleaned.dataset
        place = class_place(dataset.row, decision.rows)
        label = np.broadcast_to(class_place(dataset.class_ids, decision.labels), place.shape)
        images, label = place[place >= 0], label[place >= 0]
        before = _Before(images, self.label[images], self.kept[images], self.action[images].copy())
        self._before.append(before)
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
        home = self._cleaned.dataset.label
        for image in images.tolist():
            if (was := int(self.label[image])) != home[image]:
                self.arrived[was].discard(image)
        self.label[images], self.kept[images], self.action[images] = label, kept, action
        for image in images.tolist():
            if (now := int(self.label[image])) != home[image]:
                self.arrived.setdefault(now, set()).add(image)
