"""Embeddings that somebody has, in the order of a data set: the stage `embed` without a backbone.

Every image is found again by what it was called before it was packed, by the key of its record, or
by its row; never by its place alone, which nothing would show to be wrong.
"""

from collections.abc import Container, Iterator, Sequence
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
        DataError: none of the three, one image twice, two images of one name, or no image at all.
    """
    inputs = {"embeddings": fingerprint(embeddings), "data": dataset.fingerprint}

    def work() -> dict[str, Any]:
        if not mesh.is_main:
            return {}
        embedding = load_embedding(embeddings)
        place = _places(embeddings, len(embedding), dataset)
        unit, norm = _in_order(embedding, place)
        write_npy(out_dir / EMBEDDING_FILE, unit)
        write_npy(out_dir / NORM_FILE, norm)
        write_npy(out_dir / LABEL_FILE, dataset.label)
        write_npy(out_dir / ROW_FILE, dataset.row)
        skipped = np.flatnonzero(place < 0).tolist()
        if skipped:
            named = [dataset.source(one) or dataset.key(one) for one in skipped[:_SHOWN]]
            _warn(f"{len(skipped)} images of the data set have no embedding", named, embeddings)
        return {
            "num_images": dataset.num_images,
            "embedding_size": embedding.shape[1],
            "num_skipped": len(skipped),
            "num_unused": len(embedding) - int(np.count_nonzero(place >= 0)),
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


def _places(file: Path, num_rows: int, dataset: FaceDataset) -> NDArray[np.int64]:
    """(N,) the row of the file that each image of the data set has; -1 for none."""
    arrays = read_npz(file, "a features .npz")
    kind = next((name for name in ("path", "key", "row") if name in arrays), None)
    if kind is None:
        found = ", ".join(sorted(arrays))
        raise DataError(
            f"{file}: must say which image each row is of, by {_ADVICE}, but holds {found}"
        )
    # The column that tells images apart, as text.
    column = arrays[kind]
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
    if unused := sorted(row_of.keys() - known.keys()):
        _warn(f"{len(unused)} embeddings are of no image of the data set", unused, file)
    return place


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
    """Name -> its place.

    Raises:
        DataError: one is there twice.
    """
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


def _warn(what: str, names: Sequence[str], file: Path) -> None:
    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    logger.warning("%s: %s (%s%s)", file, what, shown, ", ..." if len(names) > _SHOWN else "")
