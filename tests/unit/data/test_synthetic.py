import dataclasses
import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from facetrain.core.config import parse_config
from facetrain.core.errors import ConfigError, DataError
from facetrain.data.dataset import FaceDataset
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.data.images.codec import encode_jpeg
from facetrain.data.synthetic import (
    POSE_EDGES,
    Nuisance,
    Sample,
    SyntheticConfig,
    all_samples,
    draw_nuisance,
    pair_samples,
    read_labels,
    render,
    write_pairs,
    write_synthetic,
)
from facetrain.data.synthetic.head import COLUMNS, ROWS, build_head
from facetrain.data.synthetic.identity import draw_group, draw_identity
from facetrain.data.synthetic.nuisance import CAP, GLASSES, HAND, MASK
from facetrain.data.synthetic.surface import View, rotation, visible_surface

CONFIG = SyntheticConfig(seed=7)
PLAIN = Nuisance(seed=3)


def _digest(identity: int, sample: int) -> str:
    return hashlib.sha256(render(CONFIG, identity, sample)[0].tobytes()).hexdigest()


@pytest.mark.slow
def test_image_depends_on_seed_identity_and_sample_alone() -> None:
    keys = [(0, 0), (5, 3), (41, 2), (5, 4)]
    here = [_digest(*key) for key in reversed(keys)][::-1]
    program = (
        "import hashlib, cv2\n"
        "from facetrain.data.synthetic import SyntheticConfig, render\n"
        "cv2.setNumThreads(1)\n"
        f"for i, j in {keys}:\n"
        "    image = render(SyntheticConfig(seed=7, num_identities=3), i, j)[0]\n"
        "    print(hashlib.sha256(image.tobytes()).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == here, done.stderr
    assert len(set(here)) == 4
    assert not np.array_equal(render(CONFIG, 5, 3)[0], render(SyntheticConfig(seed=8), 5, 3)[0])


def test_same_conditions_show_the_identity() -> None:
    first, second = render(CONFIG, 1, 0, PLAIN)[0], render(CONFIG, 2, 0, PLAIN)[0]
    assert np.array_equal(first, render(CONFIG, 1, 9, PLAIN)[0])  # only the conditions count
    # The clutter belongs to the conditions: the corner stays, the face differs.
    assert np.array_equal(first[:4, :4], second[:4, :4])
    assert np.abs(first[40:90, 35:80].astype(int) - second[40:90, 35:80]).mean() > 5


@pytest.mark.parametrize(
    ("yaw", "pose"),
    [(-75, 0), (-60.01, 0), (-60, 1), (-35, 2), (-15, 3), (0, 3), (14.99, 3), (15, 4), (35, 5),
     (60, 6), (75, 6)],
)  # fmt: skip
def test_pose_bin_edges(yaw: float, pose: int) -> None:
    assert Nuisance(seed=0, yaw=yaw).pose == pose


def test_replaced_levels_leave_the_rest() -> None:
    drawn = draw_nuisance(CONFIG, 4, 2)
    for pose in range(7):
        planted = draw_nuisance(CONFIG, 4, 2, pose=pose, occlusion=HAND, blur=3)
        assert (planted.pose, planted.occlusion, planted.blur) == (pose, HAND, 3)
        assert dataclasses.replace(
            planted, yaw=drawn.yaw, occlusion=drawn.occlusion, blur=drawn.blur
        ) == drawn  # fmt: skip
    assert len(POSE_EDGES) == 6


def test_levels_occur_as_often_as_their_shares_say() -> None:
    config = SyntheticConfig(
        pose_shares=(1, 0, 2, 3, 0, 0, 2), occlusion_shares=(0.5, 0.1, 0.1, 0.2, 0.1),
        blur_shares=(4, 3, 2, 1), group_shares=(1, 2, 3, 4),
    )  # fmt: skip
    drawn = [draw_nuisance(config, i, i % 5) for i in range(3000)]
    groups = [draw_group(0, i, config.group_shares) for i in range(3000)]
    for levels, shares in (
        ([n.pose for n in drawn], config.pose_shares),
        ([n.occlusion for n in drawn], config.occlusion_shares),
        ([n.blur for n in drawn], config.blur_shares),
        (groups, config.group_shares),
    ):
        expected = np.array(shares) / sum(shares)
        rate = np.bincount(levels, minlength=len(shares)) / 3000
        # Five standard deviations of a binomial rate.
        assert np.all(np.abs(rate - expected) <= 5 * np.sqrt(expected * (1 - expected) / 3000))


def test_rotation_signs() -> None:
    ahead = np.array([0.0, 0.0, 1.0])
    # x right, y down, z to the camera: the nose goes right, up; roll takes right to down.
    np.testing.assert_allclose(rotation(90, 0, 0) @ ahead, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation(0, 90, 0) @ ahead, [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation(0, 0, 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_landmarks_follow_the_pose() -> None:
    offsets = []
    for yaw in (-70, -40, -20, 0, 20, 40, 70):
        points = render(CONFIG, 3, 0, dataclasses.replace(PLAIN, yaw=yaw))[1].landmarks
        offsets.append(points[2, 0] - points[:2, 0].mean())
        # Fitted by shift and scale, so the centroid is the template's: its mean
        # (280.131 / 5, 359.504 / 5) shrunk by 0.86 about 55.5 is (55.953, 69.605).
        np.testing.assert_allclose(points.mean(axis=0), [55.953, 69.605], atol=0.01)
    assert np.all(np.diff(offsets) > 0)
    np.testing.assert_allclose(offsets, -np.array(offsets)[::-1], atol=0.3)  # a symmetric head
    down, up = (
        render(CONFIG, 3, 0, dataclasses.replace(PLAIN, pitch=p))[1].landmarks for p in (-20, 20)
    )
    assert up[2, 1] - up[:2, 1].mean() < down[2, 1] - down[:2, 1].mean()
    rolled = render(CONFIG, 3, 0, dataclasses.replace(PLAIN, roll=10))[1].landmarks
    eyes = rolled[1] - rolled[0]
    assert np.degrees(np.arctan2(eyes[1], eyes[0])) == pytest.approx(10, abs=0.1)


def test_landmarks_lie_on_what_they_name() -> None:
    """Pupils are darker than their surroundings, over many people and poses; shifted ones not."""
    inside, control = [], []
    for identity in range(40):
        state = dataclasses.replace(PLAIN, yaw=float(identity % 3 - 1) * 20, gaze_x=0.0)
        image, labels = render(CONFIG, identity, 0, state)
        grey = image.mean(axis=2)
        for x, y in labels.landmarks[:2]:
            ring = grey[int(y) - 9 : int(y) + 10, int(x) - 9 : int(x) + 10].mean()
            column, row = round(float(x)), round(float(y))
            inside.append(grey[row - 1 : row + 2, column - 1 : column + 2].min() - ring)
            control.append(grey[row + 8 : row + 11, column - 1 : column + 2].min() - ring)
    assert np.mean(np.array(inside) < 0) > 0.95
    assert np.mean(inside) < np.mean(control) - 20


def test_size_scales_image_and_landmarks() -> None:
    small = render(SyntheticConfig(seed=7, size=56), 3, 1)
    large = render(SyntheticConfig(seed=7, size=112), 3, 1)
    assert small[0].shape == (56, 56, 3)
    np.testing.assert_allclose(small[1].landmarks, (large[1].landmarks + 0.5) / 2 - 0.5, atol=1e-4)
    halved = cv2.resize(large[0], (56, 56), interpolation=cv2.INTER_AREA)
    assert np.array_equal(small[0], halved)


def _nearest_depth(head, view: View, pixels: np.ndarray) -> np.ndarray:
    """Slow oracle: depth of the nearest of all the grid's triangles at each pixel."""
    flat = view.project(head.position.reshape(-1, 3).astype(np.float64)).reshape(ROWS, COLUMNS, 3)
    a, b, c, d = flat[:-1, :-1], flat[:-1, 1:], flat[1:, :-1], flat[1:, 1:]
    triangles = np.concatenate(
        [np.stack([a, b, c], 2).reshape(-1, 3, 3), np.stack([b, d, c], 2).reshape(-1, 3, 3)]
    )
    p, u, v = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = np.where(np.abs(area) < 1e-12, np.nan, area)
    depths = []
    for x, y in pixels:
        dx, dy = x - p[:, 0], y - p[:, 1]
        s, t = (dx * v[:, 1] - dy * v[:, 0]) / area, (u[:, 0] * dy - u[:, 1] * dx) / area
        hit = (s >= 0) & (t >= 0) & (s + t <= 1)
        z = p[:, 2] + s * u[:, 2] + t * v[:, 2]
        depths.append(z[hit].max() if hit.any() else -9.0)
    return np.array(depths)


@pytest.mark.parametrize("yaw", [0.0, 50.0, -72.0])
def test_each_pixel_sees_the_nearest_surface(yaw: float) -> None:
    head = build_head(draw_identity(7, 11, 0))
    view = View(rotation(yaw, 8.0, 3.0), 48.0, np.array([56.0, 52.0]))
    seen = visible_surface(head, head.position, view, 112)
    rng = np.random.default_rng(0)
    pixels = rng.integers(8, 104, (120, 2))
    expected = _nearest_depth(head, view, pixels)
    found = seen.depth[pixels[:, 1], pixels[:, 0]]
    # Within half a vertex' spacing on slopes; a few pixels on outlines may differ altogether.
    assert np.mean(np.abs(found - expected) < 0.06) > 0.96
    assert 0.3 < np.mean(expected > -9) < 0.95  # both head and background were tried

    # The grid coordinates project back onto the pixel they were solved for.
    inside = cv2.erode((seen.depth > -9).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    points = cv2.remap(head.position, seen.column, seen.row, cv2.INTER_LINEAR)[inside]
    rows, columns = np.nonzero(inside)
    miss = view.project(points)[:, :2] - np.stack([columns, rows], axis=1)
    assert np.median(np.abs(miss)) < 0.05


def _changed(identity: int, before: Nuisance, after: Nuisance) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of pixels that differ by more than the lens blur's tail."""
    first = render(CONFIG, identity, 0, before)[0].astype(int)
    second = render(CONFIG, identity, 0, after)[0].astype(int)
    return np.nonzero(np.abs(first - second).max(axis=2) > 3)


def test_far_eye_is_hidden_in_profile() -> None:
    for identity in (3, 9):
        for yaw, near in ((70.0, 0), (-70.0, 1)):
            state = dataclasses.replace(PLAIN, yaw=yaw)
            points = render(CONFIG, identity, 0, state)[1].landmarks
            _, columns = _changed(identity, state, dataclasses.replace(state, eye_closed=1.0))
            assert len(columns) > 8  # the near eye closes ...
            reach = np.abs(columns - points[near, 0]).max()
            assert reach < 12  # ... and nothing else moves


@pytest.mark.parametrize(
    ("occlusion", "low", "high"),
    # In eye-to-mouth heights below the eyes: where the occluder may change the image.
    [(MASK, 0.1, 2.0), (GLASSES, -0.45, 0.45), (CAP, -3.0, -0.02)],
)
def test_occluder_changes_only_its_place(occlusion: int, low: float, high: float) -> None:
    for identity in range(6):
        points = render(CONFIG, identity, 0, PLAIN)[1].landmarks
        eyes, mouth = points[:2, 1].mean(), points[3:, 1].mean()
        rows, _ = _changed(identity, PLAIN, dataclasses.replace(PLAIN, occlusion=occlusion))
        place = (rows - eyes) / (mouth - eyes)
        assert len(rows) > 100
        assert low < place.min()
        assert place.max() < high


def test_hand_hides_part_of_the_face() -> None:
    for identity in range(6):
        state = dataclasses.replace(PLAIN, seed=identity, occlusion=HAND)
        rows, columns = _changed(identity, dataclasses.replace(state, occlusion=0), state)
        share = np.mean((abs(columns - 55.5) < 40) & (rows > 20))
        assert 400 < len(rows) < 7000
        assert share > 0.5


def test_blur_levels_remove_detail_and_light_comes_from_its_side() -> None:
    sharpness = [
        cv2.Laplacian(
            render(CONFIG, 5, 0, dataclasses.replace(PLAIN, blur=b))[0], cv2.CV_64F
        ).var()
        for b in range(4)
    ]  # fmt: skip
    assert np.all(np.diff(sharpness) < 0)
    left, right = (
        render(CONFIG, 5, 0, dataclasses.replace(PLAIN, light_azimuth=a))[0][50:90, 30:82].mean(2)
        for a in (-60, 60)
    )
    assert left[:, :20].mean() > left[:, -20:].mean() + 10
    assert right[:, -20:].mean() > right[:, :20].mean() + 10


def test_groups_shift_but_overlap() -> None:
    """Skin of groups 0 and 3 differs in mean; neighbouring groups overlap person by person."""
    skin = [
        np.array([np.mean(draw_identity(0, i, group).skin) for i in range(300)])
        for group in range(4)
    ]
    means = [s.mean() for s in skin]
    assert means[0] > means[1] > means[2] > means[3]
    for low, high in ((1, 0), (2, 1), (3, 2)):
        assert np.mean(skin[low][:, None] > skin[high][None]) > 0.05


def _nearest_accuracy(difficulty: float) -> tuple[float, float]:
    """Share of probes whose nearest gallery image by pixels is the same person; also shuffled."""
    config = SyntheticConfig(seed=1, size=32)
    if difficulty == 0:
        calm = {"pose_shares": (0, 0, 0, 1, 0, 0, 0), "occlusion_shares": (1, 0, 0, 0, 0)}
        calm |= {"blur_shares": (1, 0, 0, 0), "difficulty": 0.0}
        config = config.model_copy(update=calm)
    gallery, probe = (
        np.stack(
            [render(config, i, sample)[0][6:30, 7:25].ravel().astype(np.float64) for i in range(60)]
        )
        for sample in (0, 1)
    )
    gallery, probe = gallery - gallery.mean(axis=0), probe - probe.mean(axis=0)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    probe /= np.linalg.norm(probe, axis=1, keepdims=True)
    nearest = (probe @ gallery.T).argmax(axis=1)
    shuffled = np.random.default_rng(0).permutation(60)
    return float(np.mean(nearest == np.arange(60))), float(np.mean(nearest == shuffled))


def test_identity_is_visible_but_not_to_pixels() -> None:
    """Without nuisance raw pixels find the person; with it they do not; shuffled never."""
    easy, easy_shuffled = _nearest_accuracy(0.0)
    hard, _ = _nearest_accuracy(1.0)
    # Chance is 0.017; measured 0.57 and 0.03 (standard error 0.06).
    assert easy > 0.35
    assert easy_shuffled < 0.1
    assert hard < 0.2


@pytest.mark.slow
def test_dataset_round_trip(tmp_path) -> None:
    config = SyntheticConfig(
        seed=2, num_identities=4, first_identity=10, min_images=2, max_images=6, size=64
    )
    write_synthetic(tmp_path / "one", config, quiet=True)
    write_synthetic(tmp_path / "two", config, workers=2, quiet=True)
    for name in ("train.rec", "train.idx", "labels.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    plan = list(all_samples(config))
    data = FaceDataset.open(tmp_path / "one")
    labels = read_labels(tmp_path / "one" / "labels.npz")
    assert data.num_images == len(plan)
    assert data.num_classes == 4
    assert labels["identity"].tolist() == [s.identity for s in plan]
    assert data.class_ids[data.label].tolist() == labels["identity"].tolist()
    for row in (0, len(plan) - 1):
        image, label = render(config, plan[row].identity, plan[row].sample)
        assert data.encoded(row) == encode_jpeg(image, 92)
        np.testing.assert_array_equal(labels["landmarks"][row], label.landmarks)
        assert labels["yaw"][row] == label.yaw
        assert labels["group"][row] == label.group


def test_planted_levels_reach_the_label_table(tmp_path) -> None:
    plan = [Sample(3, 0, pose=6), Sample(3, 1, occlusion=MASK), Sample(8, 0, pose=0, blur=2)]
    write_synthetic(tmp_path, SyntheticConfig(size=32), plan, quiet=True)
    labels = read_labels(tmp_path / "labels.npz")
    assert labels["pose"][[0, 2]].tolist() == [6, 0]
    assert labels["occlusion"][1] == MASK
    assert labels["blur"][2] == 2
    assert labels["yaw"][0] >= 60
    assert labels["yaw"][2] < -60
    for damaged, said in ((b"PK", "no .npz archive"), (b"", "no .npz archive")):
        (tmp_path / "labels.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=said):
            read_labels(tmp_path / "labels.npz")
    np.savez(tmp_path / "labels.npz", **{n: v for n, v in labels.items() if n != "blur"})
    with pytest.raises(DataError, match="lacks blur"):
        read_labels(tmp_path / "labels.npz")


def test_long_tail_stays_in_its_bounds() -> None:
    config = SyntheticConfig(num_identities=2000, min_images=1, max_images=50)
    count = np.bincount([s.identity for s in all_samples(config)])
    assert (count.min(), count.max()) == (1, 50)
    # Log-uniform on [1, 51): median near sqrt(51) = 7.1, mean near 50 / ln(51) - 1/2 = 12.2.
    assert 6 <= np.median(count) <= 8
    assert 11.2 < count.mean() < 13.2


def test_pairs(tmp_path) -> None:
    config = SyntheticConfig(first_identity=500, num_identities=40, size=32)
    path = write_pairs(tmp_path / "val.bin", config, 40, quiet=True)
    pairs = VerificationSet.open(path)
    labels = read_labels(tmp_path / "val.labels.npz")
    first, second = labels["identity"][::2], labels["identity"][1::2]
    np.testing.assert_array_equal(pairs.same, first == second)
    assert pairs.same.tolist() == [True, True, False, False] * 10
    assert labels["identity"].min() >= 500
    folds = [set(labels["identity"][8 * k : 8 * k + 8].tolist()) for k in range(10)]
    assert sum(len(fold) for fold in folds) == len(set().union(*folds))  # disjoint
    images = set(zip(labels["identity"].tolist(), labels["sample"].tolist(), strict=True))
    assert len(images) == 80
    image, _ = render(config, int(labels["identity"][5]), int(labels["sample"][5]))
    assert pairs.encoded(5) == encode_jpeg(image, 92)


def test_errors_name_the_number() -> None:
    with pytest.raises(ConfigError, match="num_pairs must be a multiple of 20, got 30"):
        pair_samples(SyntheticConfig(), 30)
    with pytest.raises(ConfigError, match="num_identities=19 must be at least 20"):
        pair_samples(SyntheticConfig(num_identities=19), 40)
    with pytest.raises(ConfigError, match="pose_shares must be 7 numbers"):
        parse_config(SyntheticConfig, {"pose_shares": [1, 2]}, "recipe")
    with pytest.raises(ConfigError, match="max_images must be at least min_images=20"):
        parse_config(SyntheticConfig, {"max_images": 5}, "recipe")
