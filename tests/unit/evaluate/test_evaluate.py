"""Verification of small `.bin` sets against distances worked out pair by pair."""

import json

import cv2
import numpy as np
import pytest
import torch

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.evaluation.paired_faces import FolderSet
from facetrain.data.evaluation.verification_bin import write_bin
from facetrain.dist.mesh import Mesh
from facetrain.evaluate import evaluate
from facetrain.evaluate.evaluate import EvaluateConfig, evaluate_sets, name_sources, pair_distances
from facetrain.metrics.verification import verification

SIZE, D = 16, 5
CONFIG = EvaluateConfig(batch_size=6, workers=0)


class Linear:
    """A backbone that multiplies by a fixed matrix and counts images."""

    image_size, embedding_size = SIZE, D

    def __init__(self, fail_at=None):
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3 * SIZE * SIZE, D, generator=generator)
        self.num_images, self.fail_at = 0, fail_at

    def __call__(self, image):
        self.num_images += len(image)
        if self.fail_at is not None and self.num_images >= self.fail_at:
            raise KeyboardInterrupt
        return image.flatten(1) @ self.matrix


def write_set(path, num_pairs=25, seed=0):
    """Random images as PNG, which loses nothing; returns them (2P, H, W, 3) RGB and `same`."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (2 * num_pairs, SIZE, SIZE, 3), dtype=np.uint8)
    same = generator.random(num_pairs) < 0.5
    near = images[0::2][same] // 2 + generator.integers(0, 128, images[0::2][same].shape)
    images[1::2][same] = near.astype(np.uint8)
    encoded = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]
    write_bin(path, encoded, same)
    return images, same


def slow_distances(images, flip=True):
    """(P,) float64, one pair at a time."""
    matrix = Linear().matrix.double().numpy()

    def unit(image):
        pixels = image.astype(np.float64) / 127.5 - 1
        views = [pixels, pixels[:, ::-1]] if flip else [pixels]
        embedding = sum(view.transpose(2, 0, 1).reshape(-1) @ matrix for view in views)
        return embedding / np.linalg.norm(embedding)

    pairs = zip(images[0::2], images[1::2], strict=True)
    return np.array([np.sum((unit(a) - unit(b)) ** 2) for a, b in pairs])


@pytest.mark.parametrize("flip", [True, False])
def test_distances_and_numbers_are_those_of_single_pairs(tmp_path, flip):
    path = tmp_path / "val.bin"
    images, same = write_set(path)
    config = EvaluateConfig(batch_size=7, workers=0, flip=flip)  # 7 holds three pairs
    pairs = pair_distances(Linear(), path, Mesh.single(), image_size=SIZE, config=config)
    expected = slow_distances(images, flip)
    np.testing.assert_allclose(pairs.distance, expected, rtol=0, atol=1e-5)  # float32 embeddings
    assert pairs.same.tolist() == same.tolist()
    named = config.model_copy(update={"bins": (path,)})
    results = evaluate_sets(named, Linear(), Mesh.single(), image_size=SIZE)
    expected_numbers = verification(pairs.distance, same).numbers()
    assert {name: results["val"][name] for name in expected_numbers} == expected_numbers


def test_workers_change_nothing(tmp_path):
    write_set(tmp_path / "val.bin")
    distances = [
        pair_distances(
            Linear(),
            tmp_path / "val.bin",
            Mesh.single(),
            image_size=SIZE,
            config=EvaluateConfig(batch_size=6, workers=workers),
        ).distance
        for workers in (0, 2)
    ]
    np.testing.assert_array_equal(*distances)


def test_run_leaves_the_numbers_that_scripts_rely_on(tmp_path):
    path = tmp_path / "val.bin"
    images, same = write_set(path, num_pairs=40)
    config = EvaluateConfig(bins=(path,), batch_size=8, workers=0)
    artifact = evaluate.run(
        config, Linear(), tmp_path / "out", Mesh.single(), inputs={"backbone": "b"}
    )
    numbers = json.loads((tmp_path / "out" / "verification.json").read_text())
    assert numbers == artifact.metrics
    expected = verification(slow_distances(images), same)
    assert numbers["val"]["accuracy"] == expected.accuracy
    assert numbers["val"]["accuracy_std"] == expected.accuracy_std
    assert numbers["val"]["num_pairs"] == 40
    assert list(numbers["val"]["tar_at_far"]) == ["1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6"]
    assert numbers["val"]["tar_at_far"] == expected.tar_at_far
    assert numbers["val"]["tar_at_far"]["1e-1"] is not None
    assert numbers["val"]["tar_at_far"]["1e-2"] is None


def test_finished_sets_are_not_embedded_again(tmp_path):
    paths = (tmp_path / "a.bin", tmp_path / "b.bin")
    for seed, path in enumerate(paths):
        write_set(path, num_pairs=12, seed=seed)
    config = EvaluateConfig(bins=paths, batch_size=8, workers=0)

    def start(backbone, weights="b"):
        return evaluate.run(
            config, backbone, tmp_path / "out", Mesh.single(), inputs={"backbone": weights}
        )

    with pytest.raises(KeyboardInterrupt):
        start(Linear(fail_at=60))  # both views of 24 images, then some of the second set
    second = Linear()
    first = start(second)
    assert second.num_images == 48
    third = Linear()
    assert start(third).manifest == first.manifest
    assert third.num_images == 0
    start(third, weights="other")
    assert third.num_images == 96


def test_distances_are_believed_only_as_they_were_left(tmp_path):
    """Whole and of the right shape, but another number in them: an archive's checksums hold."""
    write_set(tmp_path / "a.bin", num_pairs=12)
    config = EvaluateConfig(bins=(tmp_path / "a.bin",), batch_size=8, workers=0)
    inputs, out = {"backbone": "b"}, tmp_path / "out"
    whole = evaluate.run(config, Linear(), out, Mesh.single(), inputs=inputs)
    for name in ("distance", "same"):
        saved = dict(np.load(out / "distances/a.npz"))
        np.savez(out / "distances/a.npz", **saved | {name: saved[name][::-1]})
        (out / "manifest.json").unlink()
        again = Linear()
        done = evaluate.run(config, again, out, Mesh.single(), inputs=inputs)
        assert again.num_images == 48
        assert done.metrics == whole.metrics


def test_two_sets_of_one_name_are_refused(tmp_path):
    bins = [tmp_path / "a" / "lfw.bin", tmp_path / "b" / "lfw.bin"]
    with pytest.raises(ConfigError, match=r"a/lfw.bin and .*b/lfw.bin are both 'lfw'; rename one"):
        evaluate_sets(EvaluateConfig(bins=bins), Linear(), Mesh.single(), image_size=SIZE)
    folder = FolderSet(kind="lfw", images=tmp_path)
    with pytest.raises(ConfigError, match=r"a/lfw.bin and .*pairs.txt are both 'lfw'"):
        name_sources(EvaluateConfig(bins=bins[:1], folders=(folder,)))
    with pytest.raises(ConfigError, match="must name at least one"):
        evaluate.run(CONFIG, Linear(), tmp_path / "out", Mesh.single(), inputs={})


def test_a_dead_backbone_and_a_broken_image_are_named(tmp_path):
    path = tmp_path / "val.bin"
    write_set(path)
    dead = Linear()
    dead.matrix.zero_()
    with pytest.raises(DataError, match=r"val.bin: .* 50 of 50 are \(rows 0, 1, 2"):
        pair_distances(dead, path, Mesh.single(), image_size=SIZE, config=CONFIG)
    encoded = [cv2.imencode(".png", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()] * 20
    encoded[13] = b"not an image"
    write_bin(path, encoded, [True] * 10)
    with pytest.raises(DataError, match="13"):
        pair_distances(Linear(), path, Mesh.single(), image_size=SIZE, config=CONFIG)
