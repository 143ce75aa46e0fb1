"""Pairs of images whose embeddings are given: no images, no backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.attributes import read_attributes
from facetrain.data.evaluation.pair_lists import read_any
from facetrain.data.features import load_embedding
from facetrain.data.files.npz_file import read_npz
from facetrain.evaluate.evaluate import EvaluateConfig
from facetrain.evaluate.numbers import pair_numbers, subgroup_numbers
from facetrain.metrics.verification import pair_geometry


def evaluate_embeddings(
    config: EvaluateConfig, embeddings: Path, pairs: Path
) -> dict[str, dict[str, Any]]:
    """Stem of the pair list -> verification numbers.

    Args:
        config: folds, bootstrap and attributes count.
        embeddings: `.npz` of `embedding` (N, D) and `path` (N,), the images' names.
        pairs: a list as `data.pair_lists.read_any` takes it.

    Raises:
        DataError: a malformed file, or a pair of an image without an embedding.
    """
    listed = read_any(pairs)
    embedding = load_embedding(embeddings)
    names = read_npz(embeddings, "a features .npz").get("path")
    if names is None or names.shape != (len(embedding),) or names.dtype.kind not in "US":
        raise DataError(
            f"{embeddings}: must hold path ({len(embedding)},), the name of each image as {pairs} "
            "has it, to be scored by pairs"
        )
    rows = _rows_of(listed.name, np.char.decode(names) if names.dtype.kind == "S" else names,
                    embeddings, pairs)  # fmt: skip
    distance, _ = pair_geometry(embedding[rows])
    numbers = pair_numbers(
        distance, listed.same, config.num_folds, config.bootstrap, str(pairs), listed.numbered
    )
    if config.attributes is not None:
        place = np.arange(2 * len(listed.same)).reshape(-1, 2).T
        attributes = read_attributes(config.attributes, listed.name)
        numbers["subgroups"] = subgroup_numbers(attributes, place, distance, listed.same)
    return {pairs.stem: numbers}


def _rows_of(
    wanted: Sequence[str], names: NDArray[Any], embeddings: Path, pairs: Path
) -> NDArray[np.int64]:
    """Row of each wanted image, by its name, or by its name without extension."""
    whole: dict[str, list[int]] = {}
    stems: dict[str, list[int]] = {}
    for row, name in enumerate(names.tolist()):
        clean = name.removeprefix("./")
        whole.setdefault(clean, []).append(row)
        stems.setdefault(str(Path(clean).with_suffix("")), []).append(row)
    found = [whole.get(one) or stems.get(str(Path(one).with_suffix("")), []) for one in wanted]
    if missing := sorted({one for one, rows in zip(wanted, found, strict=True) if not rows}):
        raise DataError(
            f"{embeddings}: must hold every image of {pairs}, but {len(missing)} have no embedding "
            f"({missing[0]}, ...); its path has names such as {names[0]}"
        )
    if twice := next((one for one, rows in zip(wanted, found, strict=True) if len(rows) > 1), None):
        raise DataError(
            f"{embeddings}: path must name an image once, but has {twice} several times"
        )
    return np.array([rows[0] for rows in found], np.int64)
