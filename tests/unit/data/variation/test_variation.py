"""Variation labels: the file, where labels come from, and what is planted on the fly."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.batches.augment import augment
from facetrain.data.batches.planted_variation import PlantConfig, draw_planted, planted
from facetrain.data.synthetic import (
    SyntheticConfig,
    draw_nuisance,
    read_labels,
    render,
    write_synthetic,
)
from facetrain.data.variation.build import build_variations
from facetrain.data.variation.labels import Variations, load_variations, save_variations
from facetrain.data.variation.sources import (
    attribute_variations,
    blur_levels,
    pose_levels,
    read_poses,
    sharpness,
    synthetic_variations,
    yaw_of_landmarks,
)

CONFIG = SyntheticConfig(
    num_identities=12, min_images=4, max_images=4, size=64, difficulty=0.5,
    pose_shares=(1,) * 7, blur_shares=(1,) * 4,
)  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_synthetic(folder, CONFIG, quiet=True)
    return folder


def two_factors() -> Variations:
    level = {"pose": np.array([0, 1, -1], np.int8), "age": np.array([2, 0, 1], np.int8)}
    return Variations(level, {"pose": ("left", "right"), "age": ("10", "20", "30")})


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    save_variations(tmp_path / "variation.npz", two_factors())
    found = load_variations(tmp_path / "variation.npz", 3)
    assert found.names == two_factors().names
    np.testing.assert_array_equal(found.table(), [[0, 2], [1, 0], [-1, 1]])
    assert found.counts()["pose"] == {"left": 1, "right": 1, "unknown": 1}
    np.testing.assert_array_equal(
        found.only(["age"], "x").take(np.array([2, 0])).table()[:, 0], [1, 2]
    )


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "variation.npz"
    save_variations(path, two_factors())
    with pytest.raises(DataError, match=r"cover the 5 images .* has 3 rows"):
        load_variations(path, 5)
    with pytest.raises(DataError, match="must hold the factors blur, but holds pose, age"):
        load_variations(path, 3).only(["blur"], str(path))
    np.savez(path, pose=np.array([0, 3]), **{"pose.levels": np.array(["left", "right"])})
    with pytest.raises(DataError, match="from -1 to 1, its levels, but goes from 0 to 3"):
        load_variations(path, 2)
    np.savez(path, pose=np.array([0.5]))
    with pytest.raises(DataError, match="one integer an image"):
        load_variations(path, 1)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="must be a variation file"):
        load_variations(path, 1)


def test_rendered_faces_have_exact_levels(faces: Path) -> None:
    found = synthetic_variations(faces / "labels.npz")
    labels = read_labels(faces / "labels.npz")
    for factor in ("pose", "occlusion", "blur", "group"):
        np.testing.assert_array_equal(found.level[factor], labels[factor])
    assert [len(found.names[f]) for f in found.factors] == [7, 5, 4, 4]


def test_yaw_of_a_generic_head_under_known_rotations() -> None:
    """Points of a head of other proportions, turned and seen from afar: the yaw comes back."""
    head = np.array(
        [[-0.48, 0, 0], [0.48, 0, 0], [0, 0.6, -0.5], [-0.37, 1.1, -0.1], [0.37, 1.1, -0.1]]
    )
    for yaw in (-50.0, -20.0, 0.0, 30.0, 55.0):
        for pitch in (-10.0, 10.0):
            # Positive yaw carries the nose (towards the camera, -z) to the right.
            turn_y, _ = cv2.Rodrigues(np.array([0.0, -np.radians(yaw), 0.0]))
            turn_x, _ = cv2.Rodrigues(np.array([np.radians(pitch), 0.0, 0.0]))
            points = head @ (turn_x @ turn_y).T
            pixels = 60 + 40 * points[:, :2] / (1 + points[:, 2:] / 20)
            assert yaw_of_landmarks(pixels[None])[0] == pytest.approx(yaw, abs=9)


def test_yaw_of_rendered_faces(faces: Path) -> None:
    """Exact yaws, another head's proportions; measured: a median error of 5 degrees."""
    labels = read_labels(faces / "labels.npz")
    error = yaw_of_landmarks(labels["landmarks"]) - labels["yaw"]
    assert float(np.median(np.abs(error))) < 8
    near = np.abs(pose_levels(yaw_of_landmarks(labels["landmarks"])) - labels["pose"]) <= 1
    assert near.all()


def test_alignment_does_not_change_the_yaw(faces: Path) -> None:
    points = read_labels(faces / "labels.npz")["landmarks"].astype(np.float64)
    moved = 2.5 * points + np.array([7.0, -3.0])
    np.testing.assert_allclose(yaw_of_landmarks(moved), yaw_of_landmarks(points), atol=0.05)


def test_pose_bins() -> None:
    yaw = np.array([-70, -60, -20, -14.9, 15, 59, 61, np.nan])
    np.testing.assert_array_equal(pose_levels(yaw), [0, 1, 2, 3, 4, 5, 6, -1])


def test_points_of_no_face_have_no_yaw() -> None:
    points = np.zeros((5, 5, 2)) + np.array([0, np.nan, np.inf, 1e300, -5])[:, None, None]
    assert np.isnan(yaw_of_landmarks(points)).all()
    assert (pose_levels(yaw_of_landmarks(points)) == -1).all()


def test_sharpness_falls_with_blur_and_not_with_light() -> None:
    config = SyntheticConfig(difficulty=0.5)
    image, _ = render(config, 3, 0, draw_nuisance(config, 3, 0, pose=3, occlusion=0, blur=0))
    values = [sharpness(cv2.GaussianBlur(image, (0, 0), s)) for s in (0.3, 1.0, 2.0, 4.0)]
    assert values == sorted(values, reverse=True)
    dark = (image // 2).astype(np.uint8)
    assert sharpness(dark) == pytest.approx(sharpness(image), rel=0.1)
    np.testing.assert_array_equal(blur_levels(np.array([1.0, 0.03, 0.015, 0.001])), [0, 1, 2, 3])


def test_attributes_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,age,hat\nc.jpg,30,yes\na.jpg,4,\n")
    found = attribute_variations(path, ["a.jpg", "b.jpg", "c.jpg"], 3)
    assert found.names == {"age": ("4", "30"), "hat": ("yes",)}
    np.testing.assert_array_equal(found.table(), [[0, -1], [-1, -1], [1, 0]])
    path.write_text("image,age\n2,30\n")
    np.testing.assert_array_equal(attribute_variations(path, None, 3).table(), [[-1], [-1], [0]])
    with pytest.raises(DataError, match=r"or their rows from 0 to 0, but none of its 1 lines does"):
        attribute_variations(path, ["a.jpg"], 1)
    path.write_text("image,age\na.jpg,30\n2,30\n")
    with pytest.raises(DataError, match="'2' is none; give rows from 0 up, or names with --list"):
        attribute_variations(path, ["a.jpg"], 1)
    path.write_text("image,age\na.jpg,30\na.jpg,31\n")
    with pytest.raises(DataError, match=r"one line an image, but 'a.jpg' has two that differ"):
        attribute_variations(path, ["a.jpg"], 1)


def test_poses_from_a_landmark_table(faces: Path, tmp_path: Path) -> None:
    labels = read_labels(faces / "labels.npz")
    rows = [",".join(map(str, [5, *labels["landmarks"][5].ravel()]))]
    path = tmp_path / "points.csv"
    path.write_text("path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n" + "\n".join(rows) + "\n")
    found = read_poses(path, None, 48).level["pose"]
    assert found[5] == pose_levels(yaw_of_landmarks(labels["landmarks"][5:6]))[0]
    assert (np.delete(found, 5) == -1).all()


def test_a_data_sets_file_is_made_of_what_is_known(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    assert build_variations(faces, out)["pose"].startswith("<-60 ")
    exact = load_variations(out, 48)
    table = tmp_path / "t.csv"
    table.write_text("image,hat\n0,no\n1,yes\n")
    build_variations(faces, out, attributes=table, blur=True)
    found = load_variations(out, 48)
    assert found.factors == ("blur", "hat")
    # Measured blur orders images as the planted one does; levels differ, its edges are coarse.
    rank = np.corrcoef(found.level["blur"], exact.level["blur"])[0, 1]
    assert rank > 0.6
    (faces / "labels.npz").rename(tmp_path / "hidden.npz")
    with pytest.raises(ConfigError, match="give --landmarks CSV, --attributes CSV or --blur"):
        build_variations(faces, out)
    with pytest.raises(ConfigError, match="--list names the images of --landmarks CSV"):
        build_variations(faces, out, listing=table, blur=True)
    (tmp_path / "hidden.npz").rename(faces / "labels.npz")


def test_planted_levels_are_drawn_by_their_shares_from_seed_and_step() -> None:
    config = PlantConfig(blur_shares=(8, 1, 1, 0), occlusion_shares=(1, 0, 0, 0, 1))
    level = draw_planted(config, 4000, 3, 7)
    assert torch.equal(level, draw_planted(config, 4000, 3, 7))
    assert not torch.equal(level, draw_planted(config, 4000, 3, 8))
    share = torch.bincount(level[:, 0], minlength=4) / 4000
    np.testing.assert_allclose(share, [0.8, 0.1, 0.1, 0.0], atol=0.02)  # 3 standard deviations
    assert set(level[:, 1].tolist()) == {0, 4}


def test_planting_does_what_the_level_says() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (5, 3, 40, 40), generator=generator).to(torch.uint8)
    level = torch.tensor([[0, 0], [3, 0], [0, 1], [0, 2], [0, 4]])
    found = augment(image, planted(level, 40))
    plain = image.float() / 127.5 - 1
    torch.testing.assert_close(found[0], plain[0], atol=1e-6, rtol=0)
    assert float(found[1].std()) < 0.4 * float(plain[1].std())
    grey = [(found[i].abs().amax(0) < 1e-6) for i in (2, 3, 4)]
    rows, columns = torch.arange(40)[:, None], torch.arange(40)
    eyes = ((rows >= 12) & (rows < 22)).expand(40, 40)  # 0.30 to 0.54 of 40, by pixel centres
    mouth = (rows >= 24).expand(40, 40)
    right = (columns >= 22).expand(40, 40)
    for one, expected in zip(grey, (eyes, mouth, right), strict=True):
        assert torch.equal(one, expected)
