"""Embeddings that somebody has, in the order of a data set: the stage `embed` without a backbone.

Every image is found again by what it was called before it was packed, by the key of its record, or
by its row; never by its place alone, which nothing would show to be wrong. Where two of these are
given they must agree. Labels are the data set's: those of the file are compared, not taken.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import Artifact, fingerprint
from facetrain.core.config import Config
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.npy_file import write_npy
from facetrain.core.run_folder import EMBEDDING_FILE, LABEL_FILE, NORM_FILE, ROW_FILE
from facetrain.core.text import printable
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import load_embedding, row_norms, unit_rows
from facetrain.data.files.npz_file import read_npz
from facetrain.data.images.landmarks import image_key
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage

_SHOWN = 5
_ADVICE = "path (as in the data set's .lst), key (of its record) or row (its place among all)"


class GivenConfig(Config):
    """Nothing is chosen: the embeddings are as they come."""


def run(embeddings: Path, dataset: FaceDataset, out_dir: Path, mesh: Mesh) -> Artifact:
    """What the stage `embed` leaves, from an `.npz` of `embedding` (N, D) and who is in which row.

    An image without an embedding is a zero row with norm 0, as one that does not decode, and is
    not judged. Both it and an embedding of no image are counted, and named in a warning.

    Args:
        embeddings: with `path` (text), `key` (integers, or SHARD:KEY) or `row` (integers), (N,).

    Raises:
        DataError: none of the three, two that contradict each other, one image twice, two images
            of one name, no image at all, or labels of another length or type.
    """
    inputs = {"embeddings": fingerprint(embeddings), "data": dataset.fingerprint}

    def work() -> dict[str, Any]:
        if not mesh.is_main:
            return {}
        embedding = load_embedding(embeddings)
        arrays = read_npz(embeddings, "a features .npz")
        place = _places(embeddings, arrays, len(embedding), dataset)
        unit, norm = _in_order(embedding, place)
        write_npy(out_dir / EMBEDDING_FILE, unit)
        write_npy(out_dir / NORM_FILE, norm)
        write_npy(out_dir / LABEL_FILE, dataset.label)
        write_npy(out_dir / ROW_FILE, dataset.row)
        skipped = np.flatnonzero(place < 0).tolist()
        if skipped:
            named = [dataset.source(one) or dataset.key(one) for one in skipped[:_SHOWN]]
            what = f"{len(skipped)} images of the data set have no embedding"
            _warn(what, named, embeddings, len(skipped))
        return {
            "num_images": dataset.num_images,
            "embedding_size": embedding.shape[1],
            "num_skipped": len(skipped),
            "num_unused": len(embedding) - int(np.count_nonzero(place >= 0)),
            "num_other_labels": _count_other_labels(embeddings, arrays, place, dataset),
            "skipped_rows": skipped,
        }

    return run_stage("embed", GivenConfig(), inputs, out_dir, mesh, work)


def _in_order(
    embedding: NDArray[Any], place: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Unit rows (N, D) and norms (N,) of the images whose rows of `embedding` are `place`."""
    found = np.flatnonzero(place >= 0)
    rows = embedding[place[found]]
    unit = np.zeros((len(place), embedding.shape[1]), embedding.dtype)
    unit[found] = unit_rows(rows)
    norm = np.zeros(len(place), np.float32)
    norm[found] = row_norms(rows)
    return unit, norm


def _places(
    file: Path, arrays: Mapping[str, NDArray[Any]], num_rows: int, dataset: FaceDataset
) -> NDArray[np.int64]:
    """(N,) the row of the file that each image of the data set has; -1 for none."""
    kinds = [name for name in ("path", "key", "row") if name in arrays]
    if not kinds:
        found = ", ".join(sorted(arrays))
        raise DataError(
            f"{file}: must say which image each row is of, by {_ADVICE}, but holds {found}"
        )
    place, words = _places_by(kinds[0], arrays[kinds[0]], file, num_rows, dataset)
    for kind in kinds[1:]:
        other, _ = _places_by(kind, arrays[kind], file, num_rows, dataset)
        apart = np.flatnonzero(place != other)
        if len(apart):
            image = int(apart[0])
            named = printable(dataset.source(image) or dataset.key(image))
            raise DataError(
                f"{file}: {kinds[0]} and {kind} must name the same image in a row, but differ "
                f"about {len(apart)} of {dataset.num_images} images, {named} first (row "
                f"{place[image]} and row {other[image]}; -1: none); leave out the one that is not "
                "of this data set"
            )
    if unused := sorted(words[row] for row in set(range(num_rows)).difference(place.tolist())):
        what = f"{len(unused)} embeddings are of no image of the data set"
        _warn(what, unused[:_SHOWN], file, len(unused))
    return place


def _places_by(
    kind: str, column: NDArray[Any], file: Path, num_rows: int, dataset: FaceDataset
) -> tuple[NDArray[np.int64], list[str]]:
    """Places by the column that tells images apart, and that column as text."""
    kinds = {"path": "US", "key": "USiu", "row": "iu"}[kind]
    if column.shape != (num_rows,) or column.dtype.kind not in kinds:
        raise DataError(
            f"{file}: {kind} must be ({num_rows},) {'integers' if kind == 'row' else 'names'}, one "
            f"for each row of embedding, got {column.shape} of {column.dtype}"
        )
    if column.dtype.kind == "S":
        column = np.char.decode(column, "utf-8", "surrogateescape")
    words = [str(one) for one in column.tolist()]
    # The same of the data set, and who is who.
    names = list(_names(dataset, kind, short=column.dtype.kind in "iu"))
    known = _once(
        [name for name in names if name], f"{file}: {kind} must tell the images of the data apart"
    )
    if kind == "path":
        words = _below_a_folder([image_key(word) for word in words], known)
    row_of = _once(words, f"{file}: {kind} must name an image once")
    place = np.array([row_of.get(name, -1) for name in names], np.int64)
    if not (place >= 0).any():
        raise DataError(
            f"{file}: must be of the images of the data set, but {kind} ({printable(words[0])}, "
            f"...) names none of them ({printable(next(filter(None, names), 'unnamed'))}, ...); "
            f"give {_ADVICE}"
        )
    return place, words


def _count_other_labels(
    file: Path,
    arrays: Mapping[str, NDArray[Any]],
    place: NDArray[np.int64],
    dataset: FaceDataset,
) -> int:
    """How many images `label` of the file, if there is one, has in other classes; told of.

    Its numbers, or names, may be others than the data set's. Those that are the most frequent of
    each other mean the same person.
    """
    given = arrays.get("label")
    if given is None:
        return 0
    shape = arrays["embedding"].shape[:1]
    if given.shape != shape or given.dtype.kind not in "USiu":
        raise DataError(
            f"{file}: label must be {shape} integers or names, one for each row of embedding, got "
            f"{given.shape} of {given.dtype}; or leave it out, for labels are those of DATA"
        )
    found = place >= 0
    labels = (given[place[found]], dataset.label[found])
    theirs, ours = (np.unique(one, return_inverse=True)[1] for one in labels)
    both, pair, count = np.unique(
        np.stack([theirs, ours]), axis=1, return_inverse=True, return_counts=True
    )
    same = np.ones(both.shape[1], np.bool_)
    for side in both:  # classes of the file, and of the data set
        most = np.zeros(side.max() + 1, np.int64)
        np.maximum.at(most, side, count)
        same &= count == most[side]
    other = np.flatnonzero(found)[~same[pair.reshape(-1)]]
    if len(other):
        named = [dataset.source(one) or dataset.key(one) for one in other[:_SHOWN].tolist()]
        what = f"label has {len(other)} images in other classes than the data set, which is obeyed"
        _warn(what, named, file, len(other))
    return len(other)


def _names(dataset: FaceDataset, kind: str, *, short: bool) -> Iterator[str]:
    """What each image in use is called in a column of that kind; "" for one without a name."""
    for index, row in enumerate(dataset.row.tolist()):
        if kind == "row":
            yield str(row)
        elif kind == "path":
            yield image_key(dataset.source(index) or "")
        else:
            key = dataset.key(index)
            yield key.rpartition(":")[2] if short else key


def _once(names: Sequence[str], must: str) -> dict[str, int]:
    """Name -> its place, if none is there twice."""
    place: dict[str, int] = {}
    for number, name in enumerate(names):
        if place.setdefault(name, number) != number:
            raise DataError(f"{must}, but {printable(name)} is there twice")
    return place


def _below_a_folder(paths: list[str], known: Container[str]) -> list[str]:
    """The paths, or what is left of all of them without the folder that the data set is in."""
    for path in paths:
        rest = path
        while rest not in known and rest:
            rest = rest.partition("/")[2]
        if rest:
            folder = path[: -len(rest)]
            inside = all(one.startswith(folder) for one in paths)
            return [one.removeprefix(folder) for one in paths] if inside else paths
    return paths


def _warn(what: str, names: Sequence[str], file: Path, number: int) -> None:
    """What, of which `number` images, and the first names."""
    shown = ", ".join(map(printable, names))
    logger.warning("%s: %s (%s%s)", file, what, shown, ", ..." if number > len(names) else "")
