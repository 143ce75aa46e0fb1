"""The embed stage on a small in-memory data set, against embeddings worked out image by image."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facetrain.core.errors import DataError, UserError
from facetrain.dist.mesh import Mesh
from facetrain.embedding import embed
from facetrain.embedding.embed import EmbedConfig

SIZE, D = 8, 5
INPUTS = {"backbone": "b1"}


class Faces:
    """What the stage uses of a FaceDataset; `corrupt` images do not decode."""

    fingerprint = "d1"

    def __init__(self, num_images=23, corrupt=()):
        generator = np.random.default_rng(0)
        self.images = generator.integers(0, 256, (num_images, SIZE, SIZE, 3), dtype=np.uint8)
        self.num_images = num_images
        self.label = np.arange(num_images, dtype=np.int64) // 3
        self.row = np.arange(num_images, dtype=np.int64) * 2  # as after an overlay dropped half
        self.corrupt = corrupt

    def decode(self, index, size):
        assert size == SIZE
        if index in self.corrupt:
            raise DataError(f"faces.rec:{index} does not decode")
        return self.images[index]


class Linear:
    """An EmbeddingModel that multiplies by a fixed matrix, and may fail at some call."""

    image_size, embedding_size = SIZE, D

    def __init__(self, fail_at=None):
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3 * SIZE * SIZE, D, generator=generator)
        self.num_images, self.calls, self.fail_at = 0, 0, fail_at

    def __call__(self, image):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.num_images += len(image)
        return image.flatten(1) @ self.matrix


def slow_embeddings(faces, flip):
    """(N, D) float64, one image at a time."""
    matrix = Linear().matrix.double().numpy()
    rows = []
    for image in faces.images:
        pixels = image.astype(np.float64) / 127.5 - 1
        views = [pixels, pixels[:, ::-1]] if flip else [pixels]
        rows.append(sum(view.transpose(2, 0, 1).reshape(-1) @ matrix for view in views))
    return np.array(rows)


def start(out_dir, backbone=None, faces=None, on_corrupt="error", **settings):
    config = EmbedConfig(**{"batch_size": 4, "workers": 0, "dtype": "float32", **settings})
    return embed.run(
        config,
        backbone or Linear(),
        faces or Faces(),
        out_dir,
        Mesh.single(),
        inputs=INPUTS,
        on_corrupt=on_corrupt,
    )


@pytest.mark.parametrize("flip", [True, False])
def test_rows_are_unit_embeddings_in_order(tmp_path, flip):
    faces = Faces()
    artifact = start(tmp_path, faces=faces, flip=flip)
    embedding, norm = np.load(tmp_path / "embedding.npy"), np.load(tmp_path / "norm.npy")
    expected = slow_embeddings(faces, flip)
    # float32 sums of 192 products of order one
    np.testing.assert_allclose(embedding * norm[:, None], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "label.npy"), faces.label)
    np.testing.assert_array_equal(np.load(tmp_path / "row.npy"), faces.row)
    assert artifact.metrics["num_images"] == 23
    assert artifact.manifest["inputs"] == {"backbone": "b1", "data": "d1"}
    assert not (tmp_path / ".progress").exists()


def test_float16_rounds_the_same_rows(tmp_path):
    start(tmp_path / "single")
    start(tmp_path / "half", dtype="float16")
    half = np.load(tmp_path / "half" / "embedding.npy", mmap_mode="r")
    assert half.dtype == np.float16
    single = np.load(tmp_path / "single" / "embedding.npy")
    np.testing.assert_array_equal(half, single.astype(np.float16))


def test_an_interrupted_run_continues_to_the_same_bits(tmp_path):
    start(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "resumed", Linear(fail_at=7), flip=True)  # in the fourth batch of six
    assert not (tmp_path / "resumed" / "manifest.json").exists()
    backbone = Linear()
    start(tmp_path / "resumed", backbone, batch_size=4)
    assert backbone.num_images == 2 * (23 - 12)  # both views of what three batches of 4 left
    for name in ("embedding.npy", "norm.npy"):
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "resumed" / name
        ).read_bytes()


def test_a_batch_number_cut_short_does_not_count(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, Linear(fail_at=5))  # two of six batches done
    (noted,) = (tmp_path / ".progress").glob("done-*.txt")
    first, second = noted.read_text().splitlines()
    assert (first[:2], second[:2]) == ("0 ", "1 ")
    noted.write_text(f"{first}\n{second}")  # the end of the second may be missing
    backbone = Linear()
    start(tmp_path, backbone)
    assert backbone.num_images == 2 * (23 - 4)


def test_another_config_starts_over_and_a_finished_run_is_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, Linear(fail_at=5))
    backbone = Linear()
    first = start(tmp_path, backbone, flip=False)
    assert backbone.num_images == 23
    again = Linear()
    assert start(tmp_path, again, flip=False).manifest == first.manifest
    assert again.num_images == 0
    start(tmp_path, again, flip=True)
    assert again.num_images == 46


def test_a_skipped_record_is_a_zero_row_and_listed(tmp_path):
    faces = Faces(corrupt=(5, 22))
    artifact = start(tmp_path, faces=faces, on_corrupt="skip")
    assert artifact.metrics["skipped_rows"] == [5, 22]
    embedding, norm = np.load(tmp_path / "embedding.npy"), np.load(tmp_path / "norm.npy")
    assert not embedding[[5, 22]].any()
    assert np.flatnonzero(norm == 0).tolist() == [5, 22]
    with pytest.raises(DataError, match=r"faces\.rec:5 does not decode"):
        start(tmp_path / "strict", faces=faces)


def test_embeddings_without_direction_stop_the_run(tmp_path):
    backbone = Linear()
    backbone.matrix[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"images \[0, 1, 2, 3\] are"):
        start(tmp_path, backbone)


def test_a_full_disk_is_told_at_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    backbone = Linear()
    with pytest.raises(UserError, match=r"needs [1-9].* of disk, but No space left"):
        start(tmp_path, backbone)
    assert backbone.num_images == 0
    monkeypatch.undo()
    start(tmp_path, backbone)
    assert backbone.num_images == 46


def test_a_backbone_in_training_mode_is_our_mistake(tmp_path):
    backbone = SimpleNamespace(image_size=SIZE, embedding_size=D, training=True)
    with pytest.raises(AssertionError, match="eval mode"):
        start(tmp_path, backbone)
