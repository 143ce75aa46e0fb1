"""The pair lists of the verification sets, as they are distributed: which two images, one person?

Every reader of an official list returns the pairs so that ten consecutive folds of equal size are
the official ones; a list of one's own comes in the order of its lines.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.evaluation.lfw import Pair, file_name, read_pair, read_pairs
from facetrain.data.files.lists import text_lines

NUM_FOLDS = 10


class PairList(NamedTuple):
    """P pairs of images."""

    name: list[str]  # (2P) files below the set's folder; pair i is images 2i and 2i + 1
    identity: list[str] | None  # (2P) whose; None where the list does not tell
    same: NDArray[np.bool_]  # (P,)

    @property
    def numbered(self) -> NDArray[np.int64] | None:
        """(2, P) identity of both images of each pair, numbered from 0; None where unknown."""
        if self.identity is None:
            return None
        number = np.unique(self.identity, return_inverse=True)[1]
        return np.asarray(number.reshape(-1, 2).T, np.int64)


def read_lfw(path: Path) -> PairList:
    """LFW's `pairs.txt`: View 2, 10 sets of same and different pairs.

    Raises:
        DataError: another layout.
    """
    return _of_people([pair for fold in read_pairs(path) for pair in fold])


def _of_people(pairs: Sequence[Pair]) -> PairList:
    faces = [face for pair in pairs for face in (pair.first, pair.second)]
    return PairList(
        [file_name(face) for face in faces],
        [name for name, _ in faces],
        np.array([pair.same for pair in pairs]),
    )


def read_any(path: Path) -> PairList:
    """A list of one's own, in the order of its lines, each in one of two forms.

    `path path 1` (same person) or `path path 0`, paths below the images' folder. Or LFW's and
    RFW's: `name n m` (same) or `name n other m`, images `name/name_0001.jpg`, perhaps with LFW's
    header of one or two counts. Words are set apart by tabs, commas or blanks; a line of column
    names and a byte order mark may come first.

    Raises:
        DataError: another layout, fewer or more pairs than the header says, or a pair of images
            that is said to be of one person and of two.
    """
    what = "path path 0|1, or LFW's name n m"
    lines = [line for _, line in text_lines(path, what)]
    separator = next(
        (s for s in ("\t", ",") if all(s in line for line in lines[1:] or lines)), None
    )
    rows = [[word.strip() for word in line.split(separator)] for line in lines]
    counts = [int(word) for word in rows[0] if _is_count(word)]
    has_header = len(counts) == len(rows[0]) <= 2
    if has_header or _names_columns(rows[0]):
        del rows[0], lines[0]
    forms = [_form(row) for row in rows]
    for form, line in zip(forms, lines, strict=True):
        if form is None or form != forms[0]:
            raise DataError(f"{path}: every line must be {what}, all alike; got {line!r:.80}")
    if forms and forms[0] == "paths":
        names = [name.removeprefix("./") for row in rows for name in row[:2]]
        same = np.array([row[2] == "1" for row in rows])
        _check_agreement(path, names, same)
        return PairList(names, _identities(names, same), same)
    num_pairs = 2 * int(np.prod(counts)) if has_header else len(rows)
    if len(rows) != num_pairs or not rows:
        raise DataError(f"{path}: its header promises {num_pairs} pairs, but it holds {len(rows)}")
    pairs = [read_pair(row) for row in rows]
    if alike := next((p for p in pairs if not p.same and p.first[0] == p.second[0]), None):
        raise DataError(
            f"{path}: `name n other m` must name two people, got {alike.first[0]!r} twice; write "
            "two images of one person as `name n m`"
        )
    return _of_people(pairs)


def _names_columns(row: Sequence[str]) -> bool:
    """Whether a first line is a header, and not a pair with a mistake in its flag."""
    looks_like_files = any("/" in word or "." in word for word in row)
    return len(row) == 3 and row[2].isidentifier() and not looks_like_files


def _check_agreement(path: Path, names: Sequence[str], same: NDArray[np.bool_]) -> None:
    """Two lines about the same two images must say the same of them."""
    said: dict[tuple[str, ...], bool] = {}
    for one, other, flag in zip(names[::2], names[1::2], same.tolist(), strict=True):
        if said.setdefault(tuple(sorted((one, other))), flag) != flag:
            raise DataError(
                f"{path}: two images must be of one person (1) or of two (0), but {one} and "
                f"{other} are both; remove the wrong line"
            )
        if one == other and not flag:
            raise DataError(
                f"{path}: a pair of two people (0) must name two images, got {one} twice; "
                "remove the line"
            )


def _form(row: Sequence[str]) -> Literal["paths", "people"] | None:
    """Which of `read_any`'s forms a line has, if any."""
    if len(row) == 3 and row[2] in ("0", "1") and not _is_count(row[1]):
        return "paths"
    numbers = row[1::2] if len(row) == 4 else row[1:]
    return "people" if len(row) in (3, 4) and all(map(_is_count, numbers)) else None


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10


def _identities(names: Sequence[str], same: NDArray[np.bool_]) -> list[str] | None:
    """The folders that the images are in, where they part the people as the flags do."""
    folders = [str(Path(name).parent) for name in names]
    alike = [one == other for one, other in zip(folders[::2], folders[1::2], strict=True)]
    return folders if alike == same.tolist() else None


def _words(path: Path, separator: str | None, num_words: int, what: str) -> list[list[str]]:
    """The words of each line that is not empty."""
    rows = []
    for number, line in text_lines(path, what):
        rows.append(line.split(separator))
        if len(rows[-1]) != num_words:
            raise DataError(f"{path}: line {number} must be {what!r}; got {line!r:.80}")
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


def read_cfp(folder: Path, sides: tuple[str, str]) -> PairList:
    """CFP's folder `Protocol`; a side is F (frontal) or P (profile).

    Raises:
        DataError: a missing or malformed file.
    """
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


def read_agedb(path: Path) -> PairList:
    """AgeDB-30's `.mat`: ten `splits`, each pairs of image names and labels 1 and -1.

    Raises:
        DataError: another layout.
    """
    from scipy.io import loadmat

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
    "cfp_ff": Kind(functools.partial(read_cfp, sides=("F", "F")), "Protocol"),
    "cfp_fp": Kind(functools.partial(read_cfp, sides=("F", "P")), "Protocol"),
    "agedb30": Kind(read_agedb, "AgeDB.mat"),
    "calfw": Kind(read_two_lines, "pairs_CALFW.txt"),
    "cplfw": Kind(read_two_lines, "pairs_CPLFW.txt"),
    "list": Kind(read_any, "pairs.txt"),
}
