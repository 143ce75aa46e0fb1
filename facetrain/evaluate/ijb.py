"""Stage `ijb`: a backbone, or given features, on IJB-B or IJB-C: 1:1 pairs and 1:N searches."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facetrain.core.artifact import Artifact, fingerprint, write_json
from facetrain.core.config import Config
from facetrain.core.errors import ConfigError
from facetrain.core.log import logger
from facetrain.core.npy_file import read_npy
from facetrain.core.option_of import Of
from facetrain.core.run_folder import ROC_FILE, VERIFICATION_FILE
from facetrain.data.attributes import Attribute, read_attributes
from facetrain.data.evaluation.ijb_metadata import IjbMetadata
from facetrain.data.files.npz_file import write_npz
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.evaluate.ijb_embedding import feature_chunks, image_chunks, pool_templates
from facetrain.evaluate.ijb_scores import ScoredPairs, identify_templates, one_to_one, score_pairs
from facetrain.evaluate.numbers import confidence_intervals, subgroup_numbers
from facetrain.metrics.verification import Floats, roc
from facetrain.models.weights import EmbeddingModel

_ROC_POINTS = 2000


class IjbConfig(Config):
    """Which IJB protocol, and how its images make a template."""

    path: Path | None = None
    """Folder with IJBB/ or IJBC/, or with meta/ and loose_crop/."""
    protocol: Literal["ijbb", "ijbc"] = "ijbc"
    """IJB-B or IJB-C."""
    features: Annotated[Path | None, Of("path")] = None
    """`.npy` (N, D): the images' embeddings in the lists' order, instead of the images."""
    attributes: Annotated[Path | None, Of("path")] = None
    """CSV of the templates' attributes by template number, for numbers by subgroup."""
    flip: bool = True
    """Add the embedding of the mirrored image."""
    norm_weighting: bool = True
    """An image counts by the length of its embedding."""
    detector_score: bool = True
    """An image counts by its detector score."""
    batch_size: int = Field(128, ge=1, le=1 << 20)
    """Images a rank embeds at once."""
    workers: int = Field(2, ge=0, le=256)
    """Decoding processes of each rank."""
    bootstrap: int = Field(200, ge=0, le=1_000_000)
    """Draws behind the confidence intervals; 0 for none."""


def _open_features(path: Path, faces: IjbMetadata) -> NDArray[Any]:
    """The embeddings in a `.npy`, memory-mapped."""
    content = f"embeddings in the order of {faces.protocol}_face_tid_mid.txt"
    floats = (np.float16, np.float32, np.float64)
    return read_npy(path, content, (faces.num_images, None), floats)


def _inputs(config: IjbConfig, faces: IjbMetadata) -> dict[str, str]:
    """Name -> fingerprint of the protocol's files."""
    inputs = {
        f"meta/{path.name}": fingerprint(path)
        for path in sorted(faces.folder.glob(f"{faces.protocol}_*"))
        if path.suffix in (".txt", ".csv")
    }
    for name in ("features", "attributes"):
        path = getattr(config, name)
        if path is not None:
            inputs[name] = fingerprint(path)
    return inputs


def open_protocol(config: IjbConfig) -> IjbMetadata:
    """The protocol's faces, where all files that go with them are there.

    Raises:
        ConfigError: no folder.
        DataError: files that are missing, malformed or at odds with each other.
    """
    if config.path is None:
        raise ConfigError("evaluate.ijb.path must name the folder of the protocol; add --ijb DIR")
    faces = IjbMetadata.open(config.path, config.protocol)
    if config.attributes is not None:
        _attributes(config.attributes, faces)
    if config.features is not None:
        _open_features(config.features, faces)
    return faces


def _open(config: IjbConfig, backbone: EmbeddingModel | None) -> IjbMetadata:
    """The protocol's faces, when there is something to embed them with."""
    if config.path is not None and backbone is None and config.features is None:
        raise ConfigError(
            "IJB needs embeddings: give a --backbone to embed the images with, or --features, "
            "what one has made of them"
        )
    return open_protocol(config)


def _attributes(path: Path, faces: IjbMetadata) -> dict[str, Attribute]:
    """By template."""
    return read_attributes(path, [str(number) for number in faces.template_id])


def _evaluate(
    config: IjbConfig,
    backbone: EmbeddingModel | None,
    faces: IjbMetadata,
    mesh: Mesh,
    cache: Path | None,
) -> tuple[dict[str, dict[str, Any]], ScoredPairs]:
    """The numbers, and the pairs behind the 1:1 ones."""
    if config.features is not None:
        features = _open_features(config.features, faces)
        chunks, embedding_size = feature_chunks(features, mesh), features.shape[1]
    else:
        assert backbone is not None
        embedding_size = backbone.embedding_size
        chunks = image_chunks(backbone, faces, mesh, cache, config)
    unit_template = pool_templates(
        chunks,
        faces,
        embedding_size,
        mesh,
        norm_weighting=config.norm_weighting,
        detector_score=config.detector_score,
    )
    pairs = score_pairs(unit_template, faces, mesh)
    numbers = one_to_one(pairs)
    if config.bootstrap:
        identity = faces.subjects_of(pairs.template)
        numbers |= confidence_intervals(
            -pairs.similarity, pairs.same, None, config.bootstrap, identity
        )
    if config.attributes is not None:
        numbers["subgroups"] = subgroup_numbers(
            _attributes(config.attributes, faces),
            pairs.template,
            2 - 2 * pairs.similarity,
            pairs.same,
        )
    numbers |= {"num_images": faces.num_images, "num_templates": faces.num_templates}
    found = identify_templates(unit_template, faces, mesh)
    if found is None:
        logger.info("%s: no 1:N files (*_1N_*.csv), so 1:1 only", faces.folder)
    else:
        numbers["identification"] = found
    return {str(config.protocol): numbers}, pairs


def evaluate_ijb(
    config: IjbConfig, backbone: EmbeddingModel | None, mesh: Mesh
) -> dict[str, dict[str, Any]]:
    """Protocol -> numbers, with nothing left on the disk; see `run`."""
    faces = _open(config, backbone)
    return _evaluate(config, backbone, faces, mesh, None)[0]


def _draw_points(far: Floats, tar: Floats) -> tuple[Floats, Floats]:
    """At most a few thousand points of the ROC, dense where FAR is small on a logarithmic scale."""
    if len(far) <= _ROC_POINTS:
        return far, tar
    smallest = far[far > 0][0]
    wanted = np.concatenate([[0.0], np.geomspace(smallest, 1, _ROC_POINTS)])
    rows = np.unique(np.searchsorted(far, wanted, side="right") - 1)
    return far[rows], tar[rows]


def run(
    config: IjbConfig,
    backbone: EmbeddingModel | None,
    out_dir: Path,
    mesh: Mesh,
    *,
    inputs: Mapping[str, str],
) -> Artifact:
    """Evaluate one IJB protocol; continues an interrupted run, at any world size.

    Leaves `verification.json` (protocol -> numbers; `identification` holds the 1:N numbers),
    `roc.npz` (`far`, `tar`, thinned for drawing), `embeddings/<digest>/` (what was embedded, for
    the next scoring with other weighting) and the manifest.

    Args:
        backbone: None with `config.features`.
        inputs: name -> fingerprint of what made the backbone; the protocol's files are added here.
            The images are not read for it: remove `embeddings/` where they changed.

    Raises:
        ConfigError: no folder, or neither a backbone nor features.
        DataError: files of the protocol that are missing, malformed or at odds with each other.
    """
    faces = _open(config, backbone)
    all_inputs = {**inputs, **_inputs(config, faces)}

    def work() -> dict[str, dict[str, Any]]:
        landmarks = all_inputs[f"meta/{faces.landmark_file.name}"]  # names and order as well
        size = backbone.image_size if backbone else 0
        text = f"{sorted(inputs.items())} {landmarks} {size} flip={config.flip}"
        cache = out_dir / "embeddings" / hashlib.sha256(text.encode()).hexdigest()[:16]
        results, pairs = _evaluate(config, backbone, faces, mesh, cache)
        if mesh.is_main:
            far, tar = _draw_points(*roc(-pairs.similarity, pairs.same))
            write_npz(out_dir / ROC_FILE, {"far": far, "tar": tar})
            write_json(out_dir / VERIFICATION_FILE, results)
        return results

    return run_stage("ijb", config, all_inputs, out_dir, mesh, work)
