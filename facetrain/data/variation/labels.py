"""Variation labels: what pose, occluder, blur or group each image of a data set shows.

One `.npz` beside the shards, `variation.npz`: for each factor a column `<factor>` (N,) int8 over
all images of the shards (as overlays count), -1 where unknown, and `<factor>.levels`, the names of
its levels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.files.npz_file import read_npz, write_npz

VARIATION_FILE = "variation.npz"
UNKNOWN = -1
_LEVELS = ".levels"


@dataclasses.dataclass(frozen=True)
class Variations:
    """The factors of N images."""

    level: Mapping[str, NDArray[np.int8]]
    """Factor -> (N,) int8 number of the level, -1 where unknown."""
    names: Mapping[str, tuple[str, ...]]  # factor -> the names of its levels, in order

    def __post_init__(self) -> None:
        assert self.level.keys() == self.names.keys()

    @property
    def factors(self) -> tuple[str, ...]:
        """Their names, in the order of the file."""
        return tuple(self.level)

    @property
    def num_images(self) -> int:
        """N."""
        return len(next(iter(self.level.values())))

    def only(self, factors: Sequence[str], where: str) -> "Variations":
        """These factors, in this order.

        Raises:
            DataError: one of them is not there; names `where` they were looked for.
        """
        missing = [name for name in factors if name not in self.level]
        if missing or not factors:
            raise DataError(
                f"{where}: must hold the factors {', '.join(factors) or '(none asked for)'}, but "
                f"holds {', '.join(self.level) or 'none'}; make it with `facetrain variations`"
            )
        return Variations(
            {name: self.level[name] for name in factors},
            {name: self.names[name] for name in factors},
        )

    def take(self, rows: NDArray[np.integer]) -> "Variations":
        """The same of these rows."""
        return Variations({name: level[rows] for name, level in self.level.items()}, self.names)

    def table(self) -> NDArray[np.int64]:
        """(N, K) levels of the K factors."""
        return np.stack([level.astype(np.int64) for level in self.level.values()], axis=1)

    def counts(self) -> dict[str, dict[str, int]]:
        """Factor -> level -> images, with `unknown` where there are such."""
        found: dict[str, dict[str, int]] = {}
        for name, level in self.level.items():
            number = np.bincount(level[level >= 0], minlength=len(self.names[name])).tolist()
            found[name] = dict(zip(self.names[name], number, strict=True))
            if unknown := int((level < 0).sum()):
                found[name]["unknown"] = unknown
        return found


def save_variations(path: Path, variations: Variations) -> None:
    """Write a variation file, atomically."""
    arrays: dict[str, Any] = dict(variations.level)
    for name, levels in variations.names.items():
        arrays[name + _LEVELS] = levels
    write_npz(path, arrays)


def load_variations(path: Path, num_rows: int) -> Variations:
    """Read a variation file of a data set with `num_rows` images.

    Raises:
        DataError: no such file, another layout, a level that has no name, or another number of
            images.
    """
    arrays = read_npz(path, "a variation file (`facetrain variations` makes it)")
    level, names = {}, {}
    for name, column in arrays.items():
        if name.endswith(_LEVELS):
            continue
        levels = arrays.get(name + _LEVELS)
        if column.ndim != 1 or column.dtype.kind not in "iu" or levels is None:
            raise DataError(
                f"{path}: {name!r} must be one integer an image, with names in {name + _LEVELS!r}, "
                f"but is {column.dtype} of shape {column.shape}; `facetrain variations` makes it"
            )
        if len(column) != num_rows:
            raise DataError(
                f"{path}: must cover the {num_rows} images of the data set, but {name!r} has "
                f"{len(column)} rows; it belongs to another one"
            )
        if len(column) and not -1 <= int(column.min()) <= int(column.max()) < len(levels):
            raise DataError(
                f"{path}: {name!r} must lie from -1 to {len(levels) - 1}, its levels, but goes "
                f"from {column.min()} to {column.max()}"
            )
        level[name], names[name] = column.astype(np.int8), tuple(str(one) for one in levels)
    if not level:
        raise DataError(f"{path}: must hold at least one factor, but holds none")
    return Variations(level, names)
