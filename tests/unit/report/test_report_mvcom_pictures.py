"""What the figures of learned margins show."""

from pathlib import Path

import cv2
import numpy as np

from facetrain.data.dataset import FaceDataset
from facetrain.data.synthetic import SyntheticConfig, write_synthetic
from facetrain.data.variation_sources import synthetic_variations
from facetrain.report.mvcom_pictures import (
    draw_long_tails,
    draw_margin_by_level,
    draw_margin_faces,
    draw_ratio_curve,
    sorted_examples,
)


def test_examples_rise_and_show_every_level() -> None:
    margin = np.array([0.5, 0.1, np.nan, 0.3, 0.2, 0.4, 0.9])
    level = np.array([0, 1, 1, 0, 1, 0, -1])
    # Level 0 has 3, 5, 0 by margin, level 1 has 1, 4: the middle of each, then all there are.
    np.testing.assert_array_equal(sorted_examples(margin, level, 2), [4, 5])
    np.testing.assert_array_equal(sorted_examples(margin, level, 8), [1, 4, 3, 5, 0])


def test_every_figure_is_drawn_with_something_on_it(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    write_synthetic(
        folder, SyntheticConfig(num_identities=4, min_images=3, max_images=3, size=32), quiet=True
    )
    dataset = FaceDataset.open(folder)
    variations = synthetic_variations(folder / "labels.npz")
    margin = np.linspace(0.1, 0.3, dataset.num_images)
    draw_margin_faces(tmp_path / "a.png", dataset, variations, margin, columns=4)
    draw_long_tails(tmp_path / "b.png", dataset.label, variations)
    draw_margin_by_level(tmp_path / "c.png", variations, margin - 0.2)
    draw_ratio_curve(tmp_path / "d.png")
    for name in "abcd":
        picture = cv2.imread(str(tmp_path / f"{name}.png"))
        assert picture is not None
        assert float(picture.std()) > 10  # a blank sheet has 0
