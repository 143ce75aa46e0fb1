"""Embeddings of a data set, in its order, as a memory-mapped `.npy`.

The rows are cut into batches by number alone, so what an interrupted run finished stays finished
at any world size. Ranks write byte ranges of one file, with no memory map between them, so this
also holds on a network file system.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from facetrain.core.artifact import (
    MANIFEST,
    Artifact,
    read_json,
    write_json,
)
from facetrain.core.config import Config, config_digest
from facetrain.core.errors import DataError, OutputError
from facetrain.core.log import logger
from facetrain.core.progress import progress
from facetrain.data.dataset import FaceDataset
from facetrain.data.loader import OrderedLoader
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.dist.stage import run_stage
from facetrain.embedding.row_file import BatchProgress, RowWriter, done_batches
from facetrain.engine.inference import embed_images
from facetrain.models.weights import EmbeddingModel


class EmbedConfig(Config):
    """How to embed a data set."""

    batch_size: int = Field(256, ge=1)
    """Images a rank embeds at once."""
    flip: bool = True
    """Add the embedding of the mirrored image."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of `embedding.npy`; float16 moves a cosine by less than 1e-3."""
    workers: int = Field(2, ge=0)
    """Decoding processes of each rank."""


def _create(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """An `.npy` of zeros with its disk space reserved, so that a full disk is told at the start."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size = array.offset + array.nbytes
    del array
    if hasattr(os, "posix_fallocate"):
        try:
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            path.unlink()
            raise OutputError(
                f"{path}: needs {size / 2**30:.2f} GiB of disk, but {error.strerror}; free some "
                "or choose another --out"
            ) from None


def _prepare(
    out_dir: Path,
    identity: Mapping[str, Any],
    dataset: FaceDataset,
    embedding_size: int,
    dtype: str,
) -> None:
    """Set up the arrays, unless an interrupted run of the same config and inputs left them."""
    folder = out_dir / ".progress"
    state = folder / "state.json"
    if state.is_file() and read_json(state) == identity:
        return
    (out_dir / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    num_images = dataset.num_images
    _create(out_dir / "embedding.npy", (num_images, embedding_size), dtype)
    _create(out_dir / "norm.npy", (num_images,), "float32")
    np.save(out_dir / "label.npy", np.asarray(dataset.label, np.int64))
    np.save(out_dir / "row.npy", np.asarray(dataset.row, np.int64))
    write_json(state, identity)


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open runs of consecutive numbers in an increasing sequence."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def _normalise(embedding: Tensor, label: Tensor, first_row: int) -> tuple[Tensor, Tensor]:
    """Unit rows (B, D) and norms (B,); a skipped record (label -1) becomes zeros with norm 0."""
    norm = embedding.norm(dim=1)  # (B,)
    skipped = label < 0
    bad = torch.nonzero(~skipped & ~(norm.isfinite() & (norm > 0))).flatten()
    if len(bad):
        rows = (bad + first_row).tolist()
        raise DataError(
            f"every embedding must be finite and not zero, but those of images {rows[:10]} are "
            "not; check the weights, and these images"
        )
    norm = torch.where(skipped, 0.0, norm)
    return torch.where(skipped[:, None], 0.0, embedding / norm[:, None]), norm


def _embed_rows(
    config: EmbedConfig,
    backbone: EmbeddingModel,
    dataset: FaceDataset,
    batches: Sequence[int],
    out_dir: Path,
    mesh: Mesh,
    on_corrupt: Literal["error", "skip"],
) -> None:
    """Embed this rank's `batches` (numbers, increasing) into the arrays of `out_dir`."""
    size = config.batch_size
    embedding_writer = RowWriter(out_dir / "embedding.npy")
    norm_writer = RowWriter(out_dir / "norm.npy")

    def images() -> Any:
        for first, last in _runs(batches):
            loader = OrderedLoader(
                dataset,
                backbone.image_size,
                size,
                first * size,
                min(last * size, dataset.num_images),
                workers=config.workers,
                on_corrupt=on_corrupt,
                pin_memory=mesh.device.type == "cuda",
            )
            yield from zip(range(first, last), loader, strict=True)

    with BatchProgress(out_dir / ".progress", (embedding_writer, norm_writer)) as done:
        for number, batch in progress(
            images(), "embed", total=len(batches), unit="batch", enabled=mesh.is_main
        ):
            embedding = embed_images(backbone, batch.image, mesh.device, flip=config.flip)
            unit_embedding, norm = _normalise(embedding, batch.label, number * size)
            embedding_writer.write(number * size, unit_embedding.numpy())
            norm_writer.write(number * size, norm.numpy())
            done.add(number)


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

    def work() -> dict[str, Any]:
        if mesh.is_main:
            identity = {"config_digest": config_digest(config), "inputs": all_inputs}
            _prepare(out_dir, identity, dataset, backbone.embedding_size, config.dtype)
        mesh.barrier()
        already = done_batches(out_dir / ".progress")
        mesh.barrier()  # nobody adds to the list before everybody has read it
        num_batches = -(-dataset.num_images // config.batch_size)
        remaining = [batch for batch in range(num_batches) if batch not in already]
        if already and mesh.is_main:
            logger.info("resuming %s: %d of %d batches done", out_dir, len(already), num_batches)
        start, stop = shard_range(len(remaining), mesh.rank, mesh.world_size)
        _embed_rows(config, backbone, dataset, remaining[start:stop], out_dir, mesh, on_corrupt)
        mesh.barrier()
        skipped = np.flatnonzero(np.load(out_dir / "norm.npy", mmap_mode="r") == 0)
        return {
            "num_images": dataset.num_images,
            "embedding_size": backbone.embedding_size,
            "num_skipped": len(skipped),
            "skipped_rows": skipped.tolist(),
        }

    artifact = run_stage("embed", config, all_inputs, out_dir, mesh, work)
    if mesh.is_main:
        shutil.rmtree(out_dir / ".progress", ignore_errors=True)
    return artifact
