"""What the figures of learned margins show, read back from their data."""

from pathlib import Path

import numpy as np
from helpers.reports import LABEL, opened, write_run

from facetrain.data.variation.labels import Variations
from facetrain.report.training_figures import (
    long_tails_figure,
    margin_by_level_figure,
    margin_faces_figure,
    sorted_examples,
)

# Of twelve images four show the front and eight a profile.
LEVEL = np.array([0, 1, 1] * 4, np.int8)
VARIATIONS = Variations({"pose": LEVEL}, {"pose": ("front", "profile")})


def test_examples_rise_and_show_every_level() -> None:
    margin = np.array([0.5, 0.1, np.nan, 0.3, 0.2, 0.4, 0.9])
    level = np.array([0, 1, 1, 0, 1, 0, -1])
    # Level 0 has 3, 5, 0 by margin, level 1 has 1, 4: the middle of each, then all there are.
    np.testing.assert_array_equal(sorted_examples(margin, level, 2), [4, 5])
    np.testing.assert_array_equal(sorted_examples(margin, level, 8), [1, 4, 3, 5, 0])


def test_faces_stand_by_rising_margin(tmp_path: Path) -> None:
    dataset = opened(write_run(tmp_path)).dataset
    margin = np.linspace(0.1, 0.65, 12)
    figure = margin_faces_figure(dataset, VARIATIONS, margin, columns=4)
    titles = [axes.get_title() for axes in figure.axes]
    # Of each level the middles of the lower and of the upper half: 3 and 9; 4 (third) and 10.
    assert titles == ["front\n0.250", "profile\n0.300", "front\n0.550", "profile\n0.600"]
    shown = [int(axes.images[0].get_array()[0, 0, 0]) // 20 for axes in figure.axes]
    assert shown == [3, 4, 9, 10]  # image n is grey 20 n


def test_the_mean_margin_of_each_level_the_rarest_first() -> None:
    residual = np.where(LEVEL == 0, 0.2, -0.1) + np.tile([0.01, -0.01], 6)
    axes = margin_by_level_figure(VARIATIONS, residual).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "front  33.3 %", "profile  66.7 %",
    ]  # fmt: skip
    means = [residual[level == LEVEL].mean() for level in (0, 1)]
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata(), float), means)


def test_how_uneven_the_images_are() -> None:
    classes, pose = long_tails_figure(LABEL, VARIATIONS).axes
    assert [bar.get_height() for bar in pose.patches] == [8, 4]
    assert classes.collections[0].get_paths()[0].vertices[:, 1].max() == 4
