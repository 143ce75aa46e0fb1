"""Verification on sets of image pairs: pairs sharded over the ranks, images streamed.

A rank decodes and embeds its run of pairs batch by batch and keeps one distance and two norms a
pair, so host memory holds the encoded `.bin` and a few batches, and what the ranks exchange does
not grow with the embedding size.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from facetrain.core.artifact import Artifact, fingerprint, write_json
from facetrain.core.config import Config, Paths
from facetrain.core.digest import bytes_digest
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.log import logger
from facetrain.core.run_folder import DISTANCES, VERIFICATION_FILE
from facetrain.data.attributes import Attribute, read_attributes
from facetrain.data.evaluation.paired_faces import FolderSet, PairedFaces
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.data.files.npz_file import read_npz, write_npz
from facetrain.dist.collectives import any_rank, data_errors_on_all, gather_rows
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.dist.stage import run_stage
from facetrain.engine.inference import Backbone, embed_rows
from facetrain.evaluate.ijb import IjbConfig, open_protocol
from facetrain.evaluate.numbers import pair_numbers, subgroup_numbers
from facetrain.metrics.verification import Bools, Floats, check_folds, check_norms, pair_geometry
from facetrain.models.weights import EmbeddingModel


class EvaluateConfig(Config):
    """Which verification sets, and how to embed them."""

    bins: Paths = ()
    """InsightFace `.bin` sets."""
    folders: tuple[FolderSet, ...] = ()
    """Sets in their official folders, with their pair lists."""
    attributes: Path | None = None
    """CSV of the images' attributes, for numbers by subgroup; wants exactly one set."""
    ijb: IjbConfig = IjbConfig()
    """IJB-B or IJB-C, where it has a path; leaves a stage of its own."""
    batch_size: int = Field(128, ge=2, le=1 << 20)
    """Images a rank embeds at once."""
    flip: bool = True
    """Add the embedding of the mirrored image."""
    num_folds: int = Field(10, ge=2, le=1 << 20)
    """Folds of the accuracy; the field has 10."""
    bootstrap: int = Field(1000, ge=0, le=1_000_000)
    """Draws behind the confidence intervals; 0 for none."""
    workers: int = Field(2, ge=0, le=256)
    """Decoding processes of each rank."""


Source = Path | FolderSet
"""A `.bin`, or images in a folder with a pair list."""
Pairs = VerificationSet | PairedFaces


@dataclasses.dataclass(frozen=True)
class PairDistances:
    """One verification set, embedded.

    Attributes:
        distance: (P,) squared L2 distance of unit embeddings, in file order.
        same: (P,).
    """

    distance: Floats
    same: Bools


def name_sources(config: EvaluateConfig) -> dict[str, Source]:
    """Name of the results -> set: the `.bin` files' stems, then `FolderSet.name`.

    Raises:
        ConfigError: two sets of one name, or attributes for several sets.
    """
    sources: list[tuple[str, Source]] = [(path.stem, path) for path in config.bins]
    sources += [(folder.name, folder) for folder in config.folders]
    named: dict[str, Source] = {}
    for name, source in sources:
        if name in named:
            raise ConfigError(
                "evaluate: sets are reported under their kinds or their files' names, but "
                f"{_listed_in(named[name])} and {_listed_in(source)} are both {name!r}; rename "
                "one, or leave it out"
            )
        named[name] = source
    if config.attributes is not None and len(named) > 1:
        raise ConfigError(
            f"evaluate.attributes describes the images of one set, but there are {len(named)} "
            f"({', '.join(named)}); evaluate them one by one"
        )
    return named


def _open(source: Source) -> Pairs:
    return (
        PairedFaces.open(source) if isinstance(source, FolderSet) else VerificationSet.open(source)
    )


def check_sets(config: EvaluateConfig) -> None:
    """Open every set of `config`, so that what is wrong with the last is told before the first.

    Raises:
        ConfigError: two sets of one name, or attributes for several sets.
        DataError: a file that is missing or malformed, or fewer pairs than folds.
    """
    for source in name_sources(config).values():
        pairs = _open(source)
        try:
            check_folds(pairs.same, config.num_folds)
        except DataError as error:
            raise DataError(f"{_listed_in(source)}: {error}") from None
        if config.attributes is not None:
            _attributes(config.attributes, pairs, pairs.num_pairs)
    if config.ijb.path is not None:
        open_protocol(config.ijb)


def _listed_in(source: Source) -> Path:
    return source.pair_list if isinstance(source, FolderSet) else source


def _attributes(path: Path, pairs: Pairs | None, num_pairs: int) -> dict[str, Attribute]:
    """Of the images of all pairs: by name, or by number where they have none."""
    names = pairs.pairs.name if isinstance(pairs, PairedFaces) else 2 * num_pairs
    return read_attributes(path, names)


def pair_distances(
    backbone: Backbone, source: Source, mesh: Mesh, *, image_size: int, config: EvaluateConfig
) -> PairDistances:
    """Embed one verification set over all ranks; every rank returns all of it.

    Args:
        backbone: on `mesh.device`, in eval mode.

    Raises:
        DataError: on every rank alike, when the file or an image cannot be read or an embedding
            is zero or not finite.
    """
    pairs = _open(source)
    start, stop = shard_range(pairs.num_pairs, mesh.rank, mesh.world_size)
    local = [np.zeros((0, 3))]
    whole_pairs = config.model_copy(update={"batch_size": config.batch_size // 2 * 2})
    with data_errors_on_all(mesh):
        for embedding in embed_rows(
            backbone, pairs, (2 * start, 2 * stop), image_size, whole_pairs, mesh,
            f"evaluate {pairs.path.stem}",
        ):  # fmt: skip
            distance, norm = pair_geometry(embedding)
            local.append(np.column_stack([distance, norm.reshape(-1, 2)]))
    geometry = gather_rows(np.concatenate(local), mesh)  # (P, 3): distance and both norms
    check_norms(geometry[:, 1:].reshape(-1), str(pairs.path))
    return PairDistances(geometry[:, 0], np.asarray(pairs.same, np.bool_))


def _numbers(source: Source, pairs: PairDistances, config: EvaluateConfig) -> dict[str, Any]:
    """The numbers of one set, by subgroup as well where attributes are given."""
    opened = _open(source) if isinstance(source, FolderSet) else None
    identity = opened.pairs.numbered if isinstance(opened, PairedFaces) else None
    where = str(_listed_in(source))
    numbers = pair_numbers(
        pairs.distance, pairs.same, config.num_folds, config.bootstrap, where, identity
    )
    if config.attributes is not None:
        attributes = _attributes(config.attributes, opened, len(pairs.same))
        place = np.arange(2 * len(pairs.same)).reshape(-1, 2).T
        numbers["subgroups"] = subgroup_numbers(attributes, place, pairs.distance, pairs.same)
    return numbers


def evaluate_sets(
    config: EvaluateConfig, backbone: Backbone, mesh: Mesh, *, image_size: int
) -> dict[str, dict[str, Any]]:
    """Name -> numbers of every set of `config` but IJB, with nothing left on the disk.

    Called on every rank, by the training loop too; see `evaluate.numbers.pair_numbers`.
    """
    results = {}
    for name, source in name_sources(config).items():
        logger.info("evaluate: %s", name)
        pairs = pair_distances(backbone, source, mesh, image_size=image_size, config=config)
        results[name] = _numbers(source, pairs, config)
    return results


def _content(source: Source) -> str:
    """A fingerprint of a set: the `.bin`, or images, list and landmarks."""
    if isinstance(source, Path):
        return fingerprint(source)
    paths = [source.images, source.pair_list, *([source.landmarks] if source.landmarks else [])]
    text = " ".join([source.kind, *(fingerprint(path) for path in paths)])
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(origin: str, pairs: PairDistances) -> str:
    """Of distances, and of the weights, images and options that they came from."""
    return bytes_digest(origin.encode() + pairs.distance.tobytes() + pairs.same.tobytes())


def _saved_distances(path: Path, origin: str) -> PairDistances | None:
    """What an interrupted run left, when it came from there and is as it was left."""
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path, "distances of pairs")
        pairs = PairDistances(arrays["distance"], arrays["same"])
        return pairs if str(arrays["digest"]) == _digest(origin, pairs) else None
    except (DataError, KeyError) as error:
        logger.warning("%s; embedding this set again", error)
        return None


def run(
    config: EvaluateConfig,
    backbone: EmbeddingModel,
    out_dir: Path,
    mesh: Mesh,
    *,
    inputs: Mapping[str, str],
) -> Artifact:
    """Evaluate every set but IJB; a set that was finished before is not embedded again.

    Leaves `verification.json` (set name -> numbers), `distances/<name>.npz` (`distance`, `same`)
    and the manifest.

    Args:
        inputs: name -> fingerprint of what made the backbone; the sets are added here.

    Raises:
        ConfigError: no sets, or two of one name.
    """
    named = name_sources(config)
    if not named:
        raise ConfigError("evaluate.bins must name at least one verification .bin; add one")
    content = {name: _content(source) for name, source in named.items()}
    all_inputs = {**inputs, **{f"bins/{name}": content[name] for name in named}}
    if config.attributes is not None:
        all_inputs["attributes"] = fingerprint(config.attributes)

    def work() -> dict[str, dict[str, Any]]:
        numbers = {}
        for name, source in named.items():
            origin = f"{sorted(inputs.items())} {content[name]} flip={config.flip}"
            saved = out_dir / DISTANCES / f"{name}.npz"
            pairs = _saved_distances(saved, origin)
            if any_rank(pairs is None, mesh) or pairs is None:
                pairs = pair_distances(
                    backbone, source, mesh, image_size=backbone.image_size, config=config
                )
                if mesh.is_main:
                    digest = _digest(origin, pairs)
                    write_npz(
                        saved, {"distance": pairs.distance, "same": pairs.same, "digest": digest}
                    )
            numbers[name] = _numbers(source, pairs, config)
        if mesh.is_main:
            write_json(out_dir / VERIFICATION_FILE, numbers)
        return numbers

    return run_stage("evaluate", config, all_inputs, out_dir, mesh, work)
