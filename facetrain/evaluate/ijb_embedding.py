"""The templates of an IJB protocol, pooled from images (embedded here) or from given features.

Images are embedded in chunks cut by number alone, and a finished chunk is a file: what a run that
was stopped finished stays finished, at any world size. Each rank adds its chunks to the sums of
all templates, and the sums are added over ranks; the embeddings of all images are never in memory
at once.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.core.digest import bytes_digest
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.data.evaluation.ijb_metadata import IjbMetadata
from facetrain.data.files.npz_file import read_npz, write_npz
from facetrain.dist.collectives import all_reduce_sum, data_errors_on_all
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.engine.inference import BatchConfig, embed_rows
from facetrain.metrics.template_pooling import add_images, media_weight
from facetrain.metrics.verification import Floats
from facetrain.models.weights import EmbeddingModel

CHUNK = 2048  # images a file: 4 MB of 512 numbers each, and seconds of work lost at most

Embeddings = NDArray[Any]
Chunks = Iterator[tuple[int, Embeddings]]
"""(first image, embeddings (n, D)) of consecutive images."""


def _share(numbers: Sequence[int], mesh: Mesh) -> Sequence[int]:
    """This rank's part of `numbers`."""
    start, stop = shard_range(len(numbers), mesh.rank, mesh.world_size)
    return numbers[start:stop]


def feature_chunks(features: Embeddings, mesh: Mesh) -> Chunks:
    """This rank's chunks of given embeddings (N, D), which may be memory-mapped."""
    for chunk in _share(range(-(-len(features) // CHUNK)), mesh):
        yield chunk * CHUNK, features[chunk * CHUNK : (chunk + 1) * CHUNK]


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Half-open runs of consecutive numbers in an increasing sequence."""
    for _, run in itertools.groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        yield members[0], members[-1] + 1


def _embed_run(
    backbone: EmbeddingModel,
    faces: IjbMetadata,
    chunks: tuple[int, int],
    mesh: Mesh,
    config: BatchConfig,
) -> Chunks:
    """Embed consecutive chunks with one loader."""
    start, stop = chunks[0] * CHUNK, min(chunks[1] * CHUNK, faces.num_images)
    waiting = np.zeros((0, backbone.embedding_size), np.float32)
    for embedding in embed_rows(
        backbone, faces, (start, stop), backbone.image_size, config, mesh, f"embed {faces.protocol}"
    ):
        waiting = np.concatenate([waiting, embedding])
        while len(waiting) >= CHUNK or (len(waiting) and start + len(waiting) == stop):
            yield start, waiting[:CHUNK]
            start, waiting = start + len(waiting[:CHUNK]), waiting[CHUNK:]


def _write_chunk(path: Path, embedding: Embeddings) -> None:
    write_npz(path, {"embedding": embedding, "digest": _digest(path, embedding)})


def _read_chunk(path: Path, expected: tuple[int, int]) -> Embeddings:
    """A finished chunk. Raises DataError or KeyError: it is not as it was left, or not there."""
    arrays = read_npz(path, "embeddings")
    kept: Embeddings = arrays["embedding"]
    if kept.shape != expected or kept.dtype.kind != "f":
        raise DataError(
            f"{path}: must hold {expected} floats, but holds {kept.shape} of {kept.dtype}"
        )
    if str(arrays["digest"]) != _digest(path, kept):
        raise DataError(f"{path}: must hold what was written there, but holds something else")
    return kept


def _digest(path: Path, embedding: Embeddings) -> str:
    """Of a chunk and its place; its folder is named for the backbone, the faces and the options."""
    return bytes_digest(f"{path.parent.name}/{path.name}".encode() + embedding.tobytes())


def image_chunks(
    backbone: EmbeddingModel,
    faces: IjbMetadata,
    mesh: Mesh,
    cache: Path | None,
    config: BatchConfig,
) -> Chunks:
    """This rank's chunks of the images' embeddings; those in `cache` are read, others left there.

    A collective call: every rank must begin it.

    Args:
        backbone: in eval mode, on `mesh.device`.
        cache: folder of finished chunks, of this backbone, these faces and these options only;
            None keeps nothing.

    Raises:
        DataError: an image cannot be read.
    """
    numbers = range(-(-faces.num_images // CHUNK))
    done = [n for n in numbers if cache is not None and (cache / f"{n:05d}.npz").is_file()]
    remaining = sorted(set(numbers) - set(done))
    mesh.barrier()  # nobody adds a file before everybody has looked
    if done and mesh.is_main:
        logger.info("resuming %s: %d of %d chunks embedded", cache, len(done), len(numbers))
    damaged = []
    for n in _share(done, mesh):
        assert cache is not None
        try:
            expected = min(CHUNK, faces.num_images - n * CHUNK), backbone.embedding_size
            kept = _read_chunk(cache / f"{n:05d}.npz", expected)
        except (DataError, KeyError) as error:
            logger.warning("%s; embedding these images again", error)
            damaged.append(n)
            continue
        yield n * CHUNK, kept
    for run in _runs(sorted([*_share(remaining, mesh), *damaged])):
        for start, embedding in _embed_run(backbone, faces, run, mesh, config):
            if cache is not None:
                _write_chunk(cache / f"{start // CHUNK:05d}.npz", embedding)
            yield start, embedding


def _norms(embedding: Embeddings, faces: IjbMetadata, start: int) -> Floats:
    """(n,) lengths of the embeddings of the images from `start` on, none of them 0."""
    norm = np.linalg.norm(embedding.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
    if len(bad):
        names = ", ".join(faces.name[start + row] for row in bad[:3])
        raise DataError(
            f"{faces.folder}: no embedding may be zero, infinite or NaN, but {len(bad)} of "
            f"{len(norm)} are ({names}); check the weights, and these images"
        )
    return np.asarray(norm)


def pool_templates(
    chunks: Chunks,
    faces: IjbMetadata,
    embedding_size: int,
    mesh: Mesh,
    *,
    norm_weighting: bool,
    detector_score: bool,
) -> Floats:
    """(T, D) unit templates on every rank, from each rank's own chunks.

    Args:
        chunks: see `feature_chunks` and `image_chunks`; over all ranks, every image once.
        faces: N images, T templates.
        embedding_size: D.
        norm_weighting: keep each embedding's length, which is larger for clearer faces; else every
            image counts alike within its media.
        detector_score: weigh each image by how sure the detector was of it.

    Raises:
        DataError: on every rank alike: an image that cannot be read, an embedding or a template
            without a direction.
    """
    local = torch.zeros(faces.num_templates, embedding_size, dtype=torch.float64)
    weight = media_weight(faces.template, faces.media)  # (N,)
    if detector_score:
        weight *= faces.detector_score
    with data_errors_on_all(mesh):
        for start, embedding in chunks:
            rows = slice(start, start + len(embedding))
            norm = _norms(embedding, faces, start)
            counted = weight[rows] if norm_weighting else weight[rows] / norm
            add_images(local.numpy(), embedding, faces.template[rows], counted)
    template_sum = all_reduce_sum(local.to(mesh.device), mesh).cpu().numpy()
    norm = np.linalg.norm(template_sum, axis=1, keepdims=True)  # (T, 1)
    if not norm.all():
        empty = faces.template_id[np.flatnonzero(norm[:, 0] == 0)[:5]].tolist()
        raise DataError(
            f"{faces.folder}: every template must have a face that counts, but those of templates "
            f"{empty} sum to nothing (detector scores of 0?); set evaluate.ijb.detector_score="
            "false, or correct the scores"
        )
    return np.asarray(template_sum / norm)
