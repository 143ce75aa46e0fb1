"""One review: what the page asks, answered from arrays in memory; what a person says, journalled.

Identities go by their class ids here and images by their rows in the data set, as in an overlay.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from facetrain.core.errors import UserError
from facetrain.data.cleaned_set import Bools, CleanedSet, Ints
from facetrain.data.cleaning_result import Reason
from facetrain.data.images.codec import decode_image, encode_jpeg
from facetrain.data.review_journal import ACTIONS, Decision, JournalWriter
from facetrain.review.priority import identity_priority, image_priority
from facetrain.review.reviewed_labels import ReviewedLabels

FACES_A_PAGE, IDENTITIES_A_PAGE = 120, 60
_SAMPLES, _MOST_ROWS, _LISTS = 4, 100_000, 16
_NO_MATCH = 3


def _rank(search: str, label: str, name: str) -> int:
    """How well an identity fits a search, 0 best: the whole, the id's beginning, in the name."""
    if search in (label, name):
        return 0
    if label.startswith(search):
        return 1
    return 2 if search in name else _NO_MATCH


class RequestError(UserError):
    """The page asked for something that does not exist."""


class Session:
    """The review of a run; its methods may be called from any thread."""

    def __init__(self, cleaned: CleanedSet, journal: JournalWriter) -> None:
        self.cleaned, self.journal = cleaned, journal
        self._lock = threading.RLock()
        self._labels = ReviewedLabels.after_cleaning(cleaned)
        for decision in journal.history.done:
            self._labels.take(decision)
        dataset, result = cleaned.dataset, cleaned.result
        label, num_classes = dataset.label, dataset.num_classes
        self._swapped = np.full(len(label), -1)
        pairs = cleaned.swaps()
        self._swapped[pairs] = pairs[:, ::-1]
        self._priority = image_priority(cleaned)
        self._identity_priority = identity_priority(self._priority, label, num_classes)
        self._order = np.argsort(-self._identity_priority, kind="stable")
        self._by_identity = np.argsort(label, kind="stable")
        self._first = np.searchsorted(label[self._by_identity], np.arange(num_classes + 1))
        self._ids = [str(one) for one in dataset.class_ids.tolist()]
        self._lower_names = [name.lower() for name in cleaned.names]

        def any_of(images: Bools) -> Bools:
            return np.bincount(label, images, num_classes) > 0

        self._filters = {
            "all": np.ones(num_classes, np.bool_),
            "merges": cleaned.merge >= 0,
            "swaps": any_of(self._swapped >= 0),
            "other": any_of(result.reason == Reason.OTHER_IDENTITY),
            "nobody": any_of(result.reason == Reason.NOBODY),
            "ambiguous": any_of(result.reason == Reason.AMBIGUOUS),
            "hard": any_of(result.reason == Reason.HARD),
            "copies": any_of(result.duplicate_of >= 0),
        }
        self._lists: dict[tuple[str, str], Ints] = {}

    def progress(self) -> dict[str, int]:
        """How far the review is."""
        history = self.journal.history
        return {
            "decisions": len(history.done),
            "images": int(np.count_nonzero(self._labels.action >= 0)),
            "seen": len(history.seen),
            "identities": self.cleaned.dataset.num_classes,
            "undone": len(history.undone),
        }

    def identities(self, chosen: str, search: str, offset: int, *, anew: bool) -> dict[str, Any]:
        """One page of the identities that a filter and a search leave, those worth most first.

        A list stays as it was made until it is asked for `anew`, so that what is decided does not
        move it under the reader's feet.
        """
        with self._lock:
            found = self._lists.get((chosen, search))
            if anew or found is None:
                found = self._find(chosen, search.strip().lower())
                self._lists.pop((chosen, search), None)
                self._lists[chosen, search] = found
                if len(self._lists) > _LISTS:
                    self._lists.pop(next(iter(self._lists)))
            page = found[offset : offset + IDENTITIES_A_PAGE].tolist()
            return {
                "total": len(found),
                "offset": offset,
                "identities": [self._summary(one) for one in page],
                "progress": self.progress(),
            }

    def _find(self, chosen: str, search: str) -> Ints:
        """Numbers of the identities of a list, in order."""
        history, class_ids = self.journal.history, self.cleaned.dataset.class_ids
        if chosen == "unseen":
            mask = ~np.isin(class_ids, list(history.seen))
        elif chosen == "decided":
            decided = self._labels.action >= 0
            mask = np.bincount(self.cleaned.dataset.label, decided, len(class_ids)) > 0
        elif chosen in self._filters:
            mask = self._filters[chosen]
        else:
            raise RequestError(f"no such filter: {chosen!r}")
        if not search:
            return self._order[mask[self._order]]
        words = zip(self._ids, self._lower_names, strict=True)
        rank = np.array([_rank(search, label, name) for label, name in words])
        found = self._order[(mask & (rank < _NO_MATCH))[self._order]]
        return found[np.argsort(rank[found], kind="stable")]

    def _images(self, identity: int) -> Ints:
        """The images that came as an identity's."""
        return self._by_identity[self._first[identity] : self._first[identity + 1]]

    def _summary(self, identity: int) -> dict[str, Any]:
        images, labels = self._images(identity), self._labels
        class_id = int(self.cleaned.dataset.class_ids[identity])
        kept = labels.kept[images] & (labels.label[images] == identity)
        threshold = float(self.cleaned.threshold[identity])
        return {
            "id": class_id,
            "name": self.cleaned.names[identity],
            "images": len(images),
            "kept": int(kept.sum()),
            "arrived": len(labels.arrived.get(identity, ())),
            "decided": int(np.count_nonzero(labels.action[images] >= 0)),
            "priority": round(float(self._identity_priority[identity]), 2),
            "threshold": threshold if np.isfinite(threshold) else None,
            "seen": class_id in self.journal.history.seen,
            "samples": self._surest(identity),
        }

    def identity(self, class_id: int, offset: int, order: str) -> dict[str, Any]:
        """An identity with one page of its faces, and the faces of those that theirs may be.

        Args:
            order: "priority", what a look is worth; or "probability", the least probable first.
        """
        with self._lock:
            number, cleaned = self._number(class_id), self.cleaned
            probability, class_ids = cleaned.result.clean_probability, cleaned.dataset.class_ids
            images = self._images(number)
            by = -self._priority if order == "priority" else probability
            own = images[np.lexsort((probability[images], by[images]))]
            arrived = sorted(self._labels.arrived.get(number, ()))
            everything = np.concatenate([own, np.array(arrived, np.int64)])
            shown = everything[offset : offset + FACES_A_PAGE]
            others = {int(one) for one in cleaned.suggested[shown] if one >= 0}
            merge = int(cleaned.merge[number])
            related = sorted(others | ({merge} if merge >= 0 else set()))
            now = self._labels.now(number)
            return self._summary(number) | {
                "offset": offset,
                "total": len(everything),
                "faces": [self._face(one) for one in shown.tolist()],
                "merge": int(class_ids[merge]) if merge >= 0 else None,
                "merged_into": int(class_ids[now]) if now != number else None,
                "related": {
                    str(class_ids[one]): {
                        "name": cleaned.names[one], "samples": self._surest(one),
                        "images": len(self._images(one)),
                    }
                    for one in related
                },
            }  # fmt: skip

    def _number(self, class_id: int) -> int:
        number = self._labels.identity(class_id)
        if number < 0:
            raise RequestError(f"no identity {class_id} in this data set")
        return number

    def _surest(self, identity: int) -> list[int]:
        """Rows of the faces that show best who an identity is."""
        images = self._images(identity)
        with_it = self._labels.kept[images] & (self._labels.label[images] == identity)
        images = images[with_it] if with_it.any() else images
        order = np.argsort(-self.cleaned.result.clean_probability[images], kind="stable")[:_SAMPLES]
        rows: list[int] = self.cleaned.dataset.row[images[order]].tolist()
        return rows

    def _face(self, image: int) -> dict[str, Any]:
        cleaned, labels, result = self.cleaned, self._labels, self.cleaned.result
        rows, class_ids = cleaned.dataset.row, cleaned.dataset.class_ids
        home, now = int(cleaned.dataset.label[image]), int(labels.label[image])
        suggested, copied = int(cleaned.suggested[image]), int(result.duplicate_of[image])
        action, swapped = int(labels.action[image]), int(self._swapped[image])
        threshold = float(cleaned.threshold[home])
        return {
            "row": int(rows[image]),
            "reason": result.reason_names[result.reason[image]],
            "probability": round(float(result.clean_probability[image]), 4),
            "threshold": round(threshold, 4) if np.isfinite(threshold) else None,
            "home": int(class_ids[home]),
            "label": int(class_ids[now]) if now >= 0 else None,
            "kept": bool(labels.kept[image]),
            "action": ACTIONS[action] if action >= 0 else None,
            "suggested": int(class_ids[suggested]) if suggested >= 0 else None,
            "suggested_probability": round(float(result.suggested_probability[image]), 4),
            "swap_with": int(rows[swapped]) if swapped >= 0 else None,
            "copy_of": int(rows[copied]) if copied >= 0 else None,
        }

    def decide(
        self, action: str, class_id: int, rows: Sequence[int], to: int | None
    ) -> dict[str, Any]:
        """Journal what was said of faces on the page of an identity.

        Args:
            action: "keep" them as this identity's, "drop" them, "move" them to the identity `to`,
                "merge" everything this identity has into `to`, or "swap" the one row and the image
                it is swapped with: each goes to the identity that the other one was in.
        """
        with self._lock:
            labels, class_ids = self._labels, self.cleaned.dataset.class_ids
            here = labels.now(self._number(class_id))
            if action not in ACTIONS:
                raise RequestError(f"no such action: {action!r:.40}")
            goal, merged, other = here, -1, -1
            if action in ("move", "merge"):
                if to is None:
                    raise RequestError(f"{action} needs the identity to go to")
                goal = labels.now(self._number(to))
            # A merge takes everything here, a swap its partner, all else the rows named.
            if action == "merge":
                if goal == here:
                    raise RequestError(f"{class_id} and {to} are one identity already")
                own = self._images(here)
                own = own[labels.kept[own] & (labels.label[own] == here)]
                others = [i for i in labels.arrived.get(here, ()) if labels.kept[i]]
                members = np.union1d(own, np.array(others, np.int64)).astype(np.int64)
                rows, merged = self.cleaned.dataset.row[members].tolist(), int(class_ids[here])
            elif not 0 < len(rows) <= _MOST_ROWS or len(labels.images_of(tuple(rows))) < len(rows):
                raise RequestError("name the rows of images that are in use")
            elif action == "swap":
                image = int(labels.images_of(tuple(rows))[0])
                partner = int(self._swapped[image])
                if len(rows) != 1 or partner < 0:
                    raise RequestError("name the row of one image that is swapped with another")
                rows = self.cleaned.dataset.row[[image, partner]].tolist()
                home = self.cleaned.dataset.label
                goal, back = labels.now(int(home[partner])), labels.now(int(home[image]))
                other = int(class_ids[back])
            decision = Decision(action, tuple(rows), int(class_ids[goal]), merged, other)
            self.journal.append(decision.as_entry())
            return self._changed(labels.take(decision))

    def undo(self) -> dict[str, Any]:
        """Take back the latest decision that holds."""
        with self._lock:
            if not self.journal.history.done:
                raise RequestError("there is nothing to undo")
            decision = self.journal.history.done[-1]
            self.journal.append({"action": "undo"})
            return self._changed(self._labels.take_back(decision))

    def redo(self) -> dict[str, Any]:
        """Decide again what was taken back last."""
        with self._lock:
            if not self.journal.history.undone:
                raise RequestError("there is nothing to redo")
            decision = self.journal.history.undone[-1]
            self.journal.append({"action": "redo"})
            return self._changed(self._labels.take(decision))

    def mark_seen(self, class_id: int) -> dict[str, Any]:
        """Note that somebody has looked at an identity."""
        with self._lock:
            self._number(class_id)
            if class_id not in self.journal.history.seen:
                self.journal.append({"action": "seen", "label": class_id})
            return {"progress": self.progress()}

    def _changed(self, images: Ints) -> dict[str, Any]:
        faces = [self._face(image) for image in images[:FACES_A_PAGE].tolist()]
        return {"faces": faces, "progress": self.progress()}

    def picture(self, row: int) -> tuple[str, bytes]:
        """Media type and bytes of an image, as they are in the shard where a browser shows these.

        Raises:
            RequestError: no image in use has this row.
            DataError: its record is damaged.
        """
        images = self._labels.images_of((row,))
        if not len(images):
            raise RequestError(f"no image in row {row}")
        encoded = self.cleaned.dataset.encoded(int(images[0]))
        if encoded.startswith(b"\xff\xd8\xff"):
            return "image/jpeg", encoded
        if encoded.startswith(b"\x89PNG\r\n"):
            return "image/png", encoded
        return "image/jpeg", encode_jpeg(decode_image(encoded, f"row {row}"))
