"""Pictures of robust training: what they show is read back from their pixels."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from facetrain.report.robust_pictures import (
    draw_alpha_beta,
    draw_confidence_curve,
    draw_confusion,
    draw_weights_over_training,
)

BLUE, ORANGE, GREEN = (0x0B, 0x6E, 0x99), (0xD9, 0x73, 0x0D), (0x2F, 0x8A, 0x57)


def pixels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1].astype(int)


def near(image: np.ndarray, colour: tuple[int, int, int], alpha: float = 1.0) -> np.ndarray:
    """Where `colour` lies on white, `alpha` of it."""
    mixed = alpha * np.array(colour) + (1 - alpha) * 255
    return np.abs(image - mixed).max(axis=2) < 12


def middle(mask: np.ndarray, axis: int) -> float:
    """Mean position of what is marked, 0 to 1."""
    assert mask.any()
    return float(np.nonzero(mask)[axis].mean() / mask.shape[axis])


def test_noise_and_clean_samples_lie_where_their_weights_are(tmp_path: Path) -> None:
    is_clean = np.arange(100) < 60
    weight = np.where(is_clean, 0.9, 0.1) + np.linspace(-0.05, 0.05, 100)
    draw_weights_over_training(tmp_path / "a.png", weight[None], is_clean, "gate")
    image = pixels(tmp_path / "a.png")
    body = image[image.shape[0] // 2 :]  # below the legend
    assert middle(near(body, ORANGE, 0.55), axis=1) < 0.35
    assert middle(near(body, BLUE, 0.55), axis=1) > 0.65

    draw_weights_over_training(tmp_path / "b.png", weight[None], ~is_clean, "gate")
    body = pixels(tmp_path / "b.png")[image.shape[0] // 2 :]
    assert middle(near(body, ORANGE, 0.55), axis=1) > 0.65


def test_weights_of_many_epochs_get_six_panels_and_missing_ones_are_left_out(
    tmp_path: Path,
) -> None:
    weight = np.full((50, 40), np.nan)
    weight[:, :20] = 0.5
    weight[:, 0] = 0
    weight[:, 1] = 1
    draw_weights_over_training(tmp_path / "a.png", weight, None, "sigma")
    image = pixels(tmp_path / "a.png")
    # 0.5 is nearly everything: one bar in each panel, with nothing of its colour between panels.
    column = near(image, BLUE, 0.55)[:, image.shape[1] // 3 : 2 * image.shape[1] // 3].any(1)
    assert np.count_nonzero(column[1:] & ~column[:-1]) >= 6


def test_a_method_that_never_had_a_weight_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no epoch"):
        draw_weights_over_training(tmp_path / "a.png", np.full((3, 4), np.nan), None, "sigma")


def test_a_perfect_estimate_is_a_diagonal_beside_the_noisy_labels(tmp_path: Path) -> None:
    true = np.repeat(np.arange(20), 10)
    given = (true + 10) % 20
    draw_confusion(tmp_path / "a.png", given, true, true)
    image = near(pixels(tmp_path / "a.png"), BLUE)
    half = image.shape[1] // 2
    for part, diagonal in ((image[:, :half], False), (image[:, half:], True)):
        down, across = np.nonzero(part)
        down = (down - down.min()) / (down.max() - down.min())
        across = (across - across.min()) / (across.max() - across.min())
        apart = np.abs(down - across)
        assert (apart < 0.06).all() if diagonal else (np.abs(apart - 0.5) < 0.06).all()


def test_without_the_truth_one_matrix_is_drawn(tmp_path: Path) -> None:
    label = np.arange(6)
    draw_confusion(tmp_path / "one.png", label, label)
    draw_confusion(tmp_path / "two.png", label, label, label)
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert two.shape[1] > 1.7 * one.shape[1]
    # Six cells of full blue in each matrix.
    assert near(two, BLUE).sum() == pytest.approx(2 * near(one, BLUE).sum(), rel=0.1)


def test_the_curve_falls_and_is_sharpest_for_the_smallest_lambda(tmp_path: Path) -> None:
    draw_confidence_curve(tmp_path / "a.png", 0.5)
    image = pixels(tmp_path / "a.png")
    # Where the loss is large (right), the smallest lambda (blue) gives the least weight (lowest).
    right = image[:, int(0.4 * image.shape[1]) : int(0.46 * image.shape[1])]
    heights = [middle(near(right, colour), axis=0) for colour in (BLUE, ORANGE, GREEN)]
    assert heights[0] > heights[1] > heights[2]


def test_beta_of_noise_above_its_alpha(tmp_path: Path) -> None:
    is_clean = np.arange(10) < 5
    alpha = np.tile(np.where(is_clean, 1.0, 0.1), (4, 1))
    beta = np.tile(np.where(is_clean, 0.9, 0.7), (4, 1))
    alpha[0] = beta[0] = np.nan  # warm-up
    draw_alpha_beta(tmp_path / "a.png", alpha, beta, is_clean)
    image = pixels(tmp_path / "a.png")
    columns = slice(int(0.45 * image.shape[1]), int(0.9 * image.shape[1]))
    rows = np.nonzero(near(image[:, columns], ORANGE).any(1))[0]
    assert rows.max() - rows.min() > 0.4 * image.shape[0]  # 0.7 and 0.1 of an axis up to 1
    # Nothing is drawn of the epoch that had no weights: the lines begin a third of the way in.
    line = near(image, BLUE)
    longest = line[line.sum(1).argmax()]
    assert np.nonzero(longest)[0].min() > 0.25 * image.shape[1]
