"""What a cleaning says of a labelled set, image by image: the result of the stage `clean`.

Written and read here and nowhere else. Labels are the given ones, as the set has them.
"""

import dataclasses
import enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.files.npz_file import check_column, read_npz, write_npz

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


class Reason(enum.IntEnum):
    """Why an image is kept or dropped."""

    NOT_JUDGED = 0
    """It has no embedding or no label, or a person has decided."""
    CLEAN = 1
    OTHER_IDENTITY = 2
    """Closed-set noise: it belongs to the identity `suggested_label`."""
    NOBODY = 3
    """Open-set noise: it belongs to no identity of the set."""
    HARD = 4
    """Its own identity explains it best, though far off (profile, blur, cover): kept."""
    AMBIGUOUS = 5
    """Two identities have about an equal claim to it; nothing is suggested where it is kept."""
    COPY = 6
    """The very image `duplicate_of` under this label once more, or under another one."""


REASON_NAMES = (
    "not judged",
    "clean",
    "another identity",
    "nobody in the set",
    "hard image",
    "ambiguous",
    "copy",
)


@dataclasses.dataclass(frozen=True)
class CleaningResult:
    """Decisions about N images under the labels of C classes."""

    clean_probability: Floats  # (N,) in [0, 1], that the given label is right
    kept: Bools  # (N,) clean_probability > its class's threshold, or not judged
    suggested_label: Ints  # (N,) the other label that the image belongs to, or -1
    suggested_probability: Floats  # (N,) at most: what the given label leaves to it; 0 for none
    reason: NDArray[np.uint8]  # (N,) a Reason, index into reason_names
    merge_label: Ints  # (N,) the label its whole class should take (the same person), or -1
    duplicate_of: Ints  # (N,) an earlier image that this one copies, or -1
    overlap: Bools  # (N,) its identity also occurs in an evaluation set
    class_id: Ints  # (C,) the given labels, ascending
    threshold: Floats  # (C,) of each class, on clean_probability
    reason_names: tuple[str, ...] = REASON_NAMES

    def save(self, path: Path | str) -> None:
        """Write the `.npz`, atomically."""
        write_npz(Path(path), vars(self))

    def named(self, class_ids: Ints) -> "CleaningResult":
        """The same with what a set calls its classes, (C',), in place of their numbers."""

        def name(place: Ints) -> Ints:
            return np.where(place >= 0, class_ids[place], -1)

        return dataclasses.replace(
            self,
            suggested_label=name(self.suggested_label),
            merge_label=name(self.merge_label),
            class_id=name(self.class_id),
        )

    @classmethod
    def load(cls, path: Path | str) -> "CleaningResult":
        """Read an `.npz`.

        Raises:
            DataError: not an `.npz`, an array missing, of another type or length, out of range.
        """
        path = Path(path)
        arrays = read_npz(path, "the result of a cleaning (.npz)")
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in arrays]:
            raise DataError(
                f"{path}: must hold {', '.join(names)}, but lacks {missing[0]}, as files of "
                f"facetrain 0.1 do; remove {path.parent} and clean again"
            )
        reason_names = arrays.pop("reason_names")
        if reason_names.dtype.kind != "U" or reason_names.ndim != 1:
            raise DataError(f"{path}: reason_names must be text, got {reason_names.dtype}")
        num_classes = len(np.atleast_1d(arrays["threshold"]))
        lengths = {"class_id": num_classes, "threshold": num_classes}
        num_images = len(np.atleast_1d(arrays["kept"]))
        for name in names[:-1]:
            check_column(path, name, arrays[name], lengths.get(name, num_images), _KINDS[name])
        bounds = {
            "clean_probability": (0, 1),
            "suggested_probability": (0, 1),
            "suggested_label": (-1, _LARGEST),
            "merge_label": (-1, _LARGEST),
            "class_id": (0, _LARGEST),
            "duplicate_of": (-1, num_images - 1),
            "reason": (0, len(reason_names) - 1),
        }
        for name, (low, high) in bounds.items():
            wrong = np.flatnonzero(~((arrays[name] >= low) & (arrays[name] <= high)))
            if len(wrong):
                came = arrays[name][wrong[0]]
                raise DataError(
                    f"{path}: {name} must be from {low} to {high}, got {came} at {wrong[0]}"
                )
        return cls(
            **{name: arrays[name] for name in names[:-1]},
            reason_names=tuple(map(str, reason_names)),
        )


_LARGEST = 1 << 62
_KINDS = {
    "clean_probability": "f",
    "kept": "b",
    "suggested_label": "iu",
    "suggested_probability": "f",
    "reason": "u",
    "merge_label": "iu",
    "duplicate_of": "iu",
    "overlap": "b",
    "class_id": "iu",
    "threshold": "f",
}
