"""Evaluation and embedding over ranks equal those of one process."""

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.ranks import Ranks

from facetrain.core.errors import DataError
from facetrain.data.evaluation.verification_bin import write_bin
from facetrain.dist.mesh import Mesh
from facetrain.embedding import embed
from facetrain.embedding.embed import EmbedConfig
from facetrain.evaluate.evaluate import EvaluateConfig, pair_distances

SIZE, D = 8, 4


class Linear:
    """A backbone that multiplies by a fixed matrix; may fail at some call."""

    image_size, embedding_size = SIZE, D

    def __init__(self, fail_at: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3 * SIZE * SIZE, D, generator=generator)
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return image.flatten(1) @ self.matrix


class Faces:
    """What the embed stage uses of a FaceDataset."""

    fingerprint = "faces"

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.images = generator.integers(0, 256, (37, SIZE, SIZE, 3), dtype=np.uint8)
        self.num_images = 37
        self.label = self.row = np.arange(37, dtype=np.int64)

    def decode(self, index: int, size: int) -> np.ndarray:
        return self.images[index]


def write_set(path: Path, num_pairs: int) -> None:
    generator = np.random.default_rng(num_pairs)
    images = generator.integers(0, 256, (2 * num_pairs, SIZE, SIZE, 3), dtype=np.uint8)
    encoded = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    write_bin(path, encoded, generator.random(num_pairs) < 0.5)


def distances(mesh: Mesh, path: Path) -> Any:
    config = EvaluateConfig(batch_size=4, workers=0)
    pairs = pair_distances(Linear(), path, mesh, image_size=SIZE, config=config)
    return pairs.distance.tolist()


def failure(mesh: Mesh, path: Path) -> str:
    try:
        distances(mesh, path)
    except DataError as error:
        return str(error)
    return "no error"


def embed_some(mesh: Mesh, out_dir: Path, fail_at: int | None) -> None:
    config = EmbedConfig(batch_size=4, workers=0, dtype="float32")
    with contextlib.suppress(KeyboardInterrupt):
        embed.run(config, Linear(fail_at), Faces(), out_dir, mesh, inputs={})  # type: ignore[arg-type]


# 7 pairs on 3 ranks are 3, 3, 1; 4 pairs on 3 ranks leave the last rank none.
@pytest.mark.parametrize("num_pairs", [7, 4])
def test_sharded_distances_equal_those_of_one_process(
    ranks: Ranks, tmp_path: Path, num_pairs: int
) -> None:
    path = tmp_path / "val.bin"
    write_set(path, num_pairs)
    whole = distances(Mesh.single(), path)
    assert len(whole) == num_pairs
    for sharded in ranks.run(distances, path):
        # The same images in batches of other sizes: float32 products may round differently.
        np.testing.assert_allclose(sharded, whole, rtol=0, atol=1e-6)


def test_an_image_that_one_rank_cannot_read_is_named_by_all(ranks: Ranks, tmp_path: Path) -> None:
    encoded = [cv2.imencode(".png", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()] * 20
    encoded[19] = b"not an image"  # the last rank's
    write_bin(tmp_path / "val.bin", encoded, [True] * 10)
    texts = set(ranks.run(failure, tmp_path / "val.bin"))
    assert len(texts) == 1
    assert "19" in texts.pop()


def test_embedding_continues_at_another_world_size(ranks: Ranks, tmp_path: Path) -> None:
    embed_some(Mesh.single(), tmp_path / "whole", None)
    # One process dies in its fourth of ten batches (two calls a batch); the ranks do the rest.
    embed_some(Mesh.single(), tmp_path / "resumed", 7)
    assert not (tmp_path / "resumed" / "manifest.json").exists()
    ranks.run(embed_some, tmp_path / "resumed", None)
    for name in ("embedding.npy", "norm.npy"):
        whole, resumed = (np.load(tmp_path / run / name) for run in ("whole", "resumed"))
        np.testing.assert_allclose(resumed, whole, rtol=0, atol=1e-6)
        assert np.abs(whole).min() > 0
