"""Embeddings of a data set, in its order, as a memory-mapped `.npy`.

The rows are cut into batches by number alone, so what an interrupted run finished stays finished
at any world size. Ranks write byte ranges of one file, with no memory map between them, so this
also holds on a network file system.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from facetrain.core.artifact import Artifact
from facetrain.core.config import Config, config_digest
from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.npy_file import read_npy, write_npy
from facetrain.core.progress import progress
from facetrain.core.row_blocks import RowBlocks
from facetrain.core.run_folder import EMBEDDING_FILE, LABEL_FILE, NORM_FILE, ROW_FILE
from facetrain.data.batches.loader import OrderedLoader
from facetrain.data.dataset import FaceDataset
from facetrain.dist.collectives import gather_objects
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.dist.stage import run_stage
from facetrain.engine.inference import Precision, embed_images
from facetrain.models.weights import EmbeddingModel


class EmbedConfig(Config):
    """How to embed a data set."""

    batch_size: int = Field(256, ge=1, le=1 << 20)
    """Images a rank embeds at once."""
    flip: bool = True
    """Add the embedding of the mirrored image."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of `embedding.npy`; float16 moves a cosine by less than 1e-3."""
    precision: Precision = "auto"
    """Of the backbone's products: `auto` is bfloat16 on a GPU, float32 on a CPU. On a CPU with
    bfloat16 instructions (AVX512_BF16, AMX) bfloat16 takes half the time."""
    workers: int = Field(2, ge=0, le=256)
    """Decoding processes of each rank."""


def _prepare(
    blocks: RowBlocks, out_dir: Path, identity: Mapping[str, Any], dataset: FaceDataset
) -> list[int]:
    """The batches to embed: all, in new arrays, or what an interrupted run of this left to do."""
    if blocks.interrupted(identity) is None:
        blocks.create()
        blocks.note(identity, {})
    write_npy(out_dir / LABEL_FILE, dataset.label)
    write_npy(out_dir / ROW_FILE, dataset.row)
    return blocks.remaining()


def _normalise(embedding: Tensor, label: Tensor, first_row: int) -> tuple[Tensor, Tensor]:
    """Unit rows (B, D) and norms (B,); a skipped record (label -1) becomes zeros with norm 0."""
    norm = embedding.norm(dim=1)  # (B,)
    skipped = label < 0
    bad = torch.nonzero(~skipped & ~(norm.isfinite() & (norm > 0))).flatten()
    if len(bad):
        rows = (bad + first_row).tolist()
        raise DataError(
            f"no embedding may be zero, infinite or NaN, but those of images {rows[:10]} are; "
            "check the weights, and these images"
        )
    norm = torch.where(skipped, 0.0, norm)
    return torch.where(skipped[:, None], 0.0, embedding / norm[:, None]), norm


def _embed_rows(
    config: EmbedConfig,
    backbone: EmbeddingModel,
    dataset: FaceDataset,
    batches: Sequence[int],
    blocks: RowBlocks,
    mesh: Mesh,
    on_corrupt: Literal["error", "skip"],
) -> None:
    """Embed this rank's `batches` (numbers, increasing) into the arrays of `blocks`."""
    size = config.batch_size
    loader = OrderedLoader(
        dataset,
        backbone.image_size,
        size,
        0,
        dataset.num_images,
        batches=batches,
        workers=config.workers,
        on_corrupt=on_corrupt,
        pin_memory=mesh.device.type == "cuda",
    )
    numbered = zip(batches, loader, strict=True)

    with blocks.writer() as writer:
        for number, batch in progress(
            numbered, "embed", total=len(batches), unit="batch", enabled=mesh.is_main
        ):
            embedding = embed_images(
                backbone, batch.image, mesh.device, flip=config.flip, precision=config.precision
            )
            unit_embedding, norm = _normalise(embedding, batch.label, number * size)
            writer.write(number, unit_embedding.numpy(), norm.numpy())


def run(
    config: EmbedConfig,
    backbone: EmbeddingModel,
    dataset: FaceDataset,
    out_dir: Path,
    mesh: Mesh,
    *,
    inputs: Mapping[str, str],
    on_corrupt: Literal["error", "skip"] = "error",
) -> Artifact:
    """Embed the images of `dataset`; continues an interrupted run, at any world size.

    Leaves, in data-set order, `embedding.npy` (N, D) of unit rows, `norm.npy` (N,) float32 (the
    length before normalising: embedding x norm is what the backbone gave), `label.npy` (N,),
    `row.npy` (N,) (position among all images of the set, as overlays count) and the manifest.
    A corrupt record that was skipped is a zero row with norm 0; the manifest lists them under
    `skipped_rows`.

    Args:
        inputs: name -> fingerprint of what made the backbone; the data set is added here.
        on_corrupt: as in `DataConfig`.

    Raises:
        DataError: a corrupt record when they are errors, or an embedding without a direction.
        OutputError: the disk cannot hold the arrays.
    """
    all_inputs = {**inputs, "data": dataset.fingerprint}
    shape = (dataset.num_images, backbone.embedding_size)
    arrays = {EMBEDDING_FILE: (shape, config.dtype), NORM_FILE: (shape[:1], "f4")}
    blocks = RowBlocks(out_dir, arrays, config.batch_size)

    def work() -> dict[str, Any]:
        identity = {"config_digest": config_digest(config), "inputs": all_inputs}
        own = _prepare(blocks, out_dir, identity, dataset) if mesh.is_main else []
        remaining = gather_objects(own, mesh)[0]
        done = blocks.num_blocks - len(remaining)
        if done and mesh.is_main:
            logger.info("resuming %s: %d of %d batches done", out_dir, done, blocks.num_blocks)
        start, stop = shard_range(len(remaining), mesh.rank, mesh.world_size)
        _embed_rows(config, backbone, dataset, remaining[start:stop], blocks, mesh, on_corrupt)
        mesh.barrier()
        norm = read_npy(out_dir / NORM_FILE, "norms", (dataset.num_images,), np.float32)
        skipped = np.flatnonzero(norm == 0)
        return {
            "num_images": dataset.num_images,
            "embedding_size": backbone.embedding_size,
            "num_skipped": len(skipped),
            "skipped_rows": skipped.tolist(),
        }

    return run_stage("embed", config, all_inputs, out_dir, mesh, work, tidy=blocks.finish)
