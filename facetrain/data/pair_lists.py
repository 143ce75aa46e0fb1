"""The pair lists of the verification sets, as they are distributed: which two images, one person?

Every reader returns the pairs so that ten consecutive folds of equal size are the official ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.lfw import file_name, read_pairs

NUM_FOLDS = 10


class PairList(NamedTuple):
    """P pairs of images.

    Attributes:
        name: (2P) files below the set's folder; pair i is images 2i and 2i + 1.
        identity: (2P) whose.
        same: (P,).
    """

    name: list[str]
    identity: list[str]
    same: NDArray[np.bool_]


def read_lfw(path: Path) -> PairList:
    """LFW's `pairs.txt`: View 2, 10 sets of same and different pairs.

    Raises:
        DataError: another layout.
    """
    pairs = [pair for fold in read_pairs(path) for pair in fold]
    faces = [face for pair in pairs for face in (pair.first, pair.second)]
    return PairList(
        [file_name(face) for face in faces],
        [name for name, _ in faces],
        np.array([pair.same for pair in pairs]),
    )


def _words(path: Path, separator: str | None, num_words: int, what: str) -> list[list[str]]:
    """The words of each line that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: must be a text file of lines {what!r}; {error}") from None
    rows = [line.strip().split(separator) for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != num_words:
            raise DataError(
                f"{path}: line {number} must be {what!r}; got {lines[number - 1]!r:.80}"
            )
    if not rows:
        raise DataError(f"{path}: must hold lines {what!r}, but has none")
    return rows


def read_two_lines(path: Path) -> PairList:
    """CALFW's and CPLFW's list: two lines a pair, "image label", label 0 for different people.

    The same pairs come first, then as many different ones; they are dealt to ten folds.

    Raises:
        DataError: another layout.
    """
    rows = _words(path, None, 2, "image label")
    label = [row[1] for row in rows]
    pairs = len(rows) // 2
    half = pairs // 2
    expected = [index < 2 * half for index in range(len(rows))]
    if [one != "0" for one in label] != expected or pairs % (2 * NUM_FOLDS):
        raise DataError(
            f"{path}: must hold two lines a pair, first same pairs (label not 0), then as many "
            f"different ones (label 0), both for {NUM_FOLDS} folds; got {len(rows)} lines with "
            f"{sum(one != '0' for one in label)} of label not 0"
        )
    places = np.arange(pairs).reshape(2, NUM_FOLDS, -1).transpose(1, 0, 2).reshape(-1)
    name = [rows[2 * place + side][0] for place in places.tolist() for side in (0, 1)]
    identity = [Path(one).stem.rpartition("_")[0] for one in name]
    return PairList(name, identity, places < half)


def _read_cfp(folder: Path, sides: tuple[str, str]) -> PairList:
    """CFP's `Protocol` folder; a side is F (frontal) or P (profile)."""
    images: dict[str, dict[int, str]] = {}
    for side in dict.fromkeys(sides):
        path = folder / f"Pair_list_{side}.txt"
        images[side] = {}
        for number, name in _words(path, None, 2, "number image"):
            if not number.isdigit():
                raise DataError(f"{path}: lines must be 'number image'; got {number!r:.40}")
            images[side][int(number)] = name.removeprefix("../")
    names, same = [], []
    for fold in range(1, NUM_FOLDS + 1):
        for kind in ("same", "diff"):
            path = folder / "Split" / "".join(sides) / f"{fold:02d}" / f"{kind}.txt"
            for row in _words(path, ",", 2, "number,number"):
                for side, number in zip(sides, row, strict=True):
                    known = images[side].get(int(number)) if number.strip().isdigit() else None
                    if known is None:
                        raise DataError(
                            f"{path}: must name images by their numbers in Pair_list_{side}.txt; "
                            f"got {number!r:.40}"
                        )
                    names.append(known)
                same.append(kind == "same")
    return PairList(names, [Path(name).parts[-3] for name in names], np.array(same))


def read_cfp_ff(path: Path) -> PairList:
    """CFP's frontal-frontal protocol from its folder `Protocol`.

    Raises:
        DataError: a missing or malformed file.
    """
    return _read_cfp(path, ("F", "F"))


def read_cfp_fp(path: Path) -> PairList:
    """CFP's frontal-profile protocol from its folder `Protocol`.

    Raises:
        DataError: a missing or malformed file.
    """
    return _read_cfp(path, ("F", "P"))


def read_agedb(path: Path) -> PairList:
    """AgeDB-30's `.mat`: ten `splits`, each pairs of image names and labels 1 and -1.

    Raises:
        DataError: SciPy, which reads MATLAB files, is not installed, or another layout.
    """
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(
            f"{path}: reading AgeDB's .mat needs SciPy; pip install scipy, or use the .bin"
        ) from None
    names: list[str] = []
    labels: list[int] = []
    try:
        splits = loadmat(path)["splits"].reshape(-1)
        for split in splits:  # a struct of pairs (2, n), each a struct around a name, and labels
            pairs, label = split[0, 0][0], split[0, 0][1]
            for column in pairs.T:
                names += [f"{image[0, 0][0].item()}.jpg" for image in column]
            labels += label.reshape(-1).astype(int).tolist()
    except Exception as error:  # SciPy raises types of its own
        raise DataError(
            f"{path}: must be AgeDB-30's .mat with `splits` of pairs and labels "
            f"({type(error).__name__}: {error})"
        ) from None
    if len(names) != 2 * len(labels) or not set(labels) <= {1, -1, 0} or len(splits) != NUM_FOLDS:
        raise DataError(
            f"{path}: must hold {NUM_FOLDS} splits with a label 1 or -1 a pair, got {len(splits)} "
            f"splits, {len(names) // 2} pairs and {len(labels)} labels"
        )
    identity = [[*name.split("_"), ""][1] for name in names]  # number_Name_age_sex.jpg
    return PairList(names, identity, np.array(labels) == 1)


class Kind(NamedTuple):
    """How a verification set is distributed."""

    read: Callable[[Path], PairList]
    pairs: str
    """Where the pair list usually lies, seen from the images' folder."""


KINDS = {
    "lfw": Kind(read_lfw, "pairs.txt"),
    "cfp_ff": Kind(read_cfp_ff, "Protocol"),
    "cfp_fp": Kind(read_cfp_fp, "Protocol"),
    "agedb30": Kind(read_agedb, "AgeDB.mat"),
    "calfw": Kind(read_two_lines, "pairs_CALFW.txt"),
    "cplfw": Kind(read_two_lines, "pairs_CPLFW.txt"),
}
