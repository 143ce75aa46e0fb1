"""What is said and drawn of an evaluation's parts."""

import numpy as np

from facetrain.data.attributes import Attribute
from facetrain.evaluate.numbers import pair_numbers, subgroup_numbers
from facetrain.report.gallery import draw_subgroups
from facetrain.report.style import Gallery
from facetrain.report.tables import evaluation_text
from facetrain.report.verification_figures import subgroup_figure


def numbers_of(levels):
    generator = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    distance = np.clip(generator.normal(np.where(same, 0.8, 1.7), 0.3), 0, 3.9)
    numbers = pair_numbers(distance, same, 10, 0, "pairs")
    attribute = Attribute(levels, generator.integers(0, len(levels), 800))
    place = np.arange(800).reshape(-1, 2).T
    numbers["subgroups"] = subgroup_numbers({"hair": attribute}, place, distance, same)
    return numbers


def test_pairs_of_an_image_with_itself_are_told(caplog):
    same = np.arange(40) % 2 == 0
    distance = np.where(same, 0.5, 1.5) + np.arange(40) / 1000
    pair_numbers(distance, same, 10, 0, "mine")
    assert not caplog.text
    distance[[0, 2, 5]] = 0, 1e-13, 0
    pair_numbers(distance, same, 10, 0, "mine")
    assert "mine: 3 of 40 pairs are of one image with itself" in caplog.text
    assert "1 are said to be of two people" in caplog.text


def test_tables_hold_the_numbers_and_their_intervals():
    numbers = numbers_of(["dark", "fair"])
    text = evaluation_text({"lfw": numbers})
    row = numbers["subgroups"]["hair"]["across"]["dark | fair"]
    low, high = row["accuracy_interval"]
    line = next(line for line in text.splitlines() if line.startswith("hair: dark | fair"))
    assert f"{row['accuracy']:.4f} [{low:.4f}, {high:.4f}]" in line
    assert f" {row['num_pairs']} " in line
    assert line.endswith("-")  # 200 impostor pairs cannot tell FAR 1e-3


def test_identification_has_a_line_a_gallery():
    rates = {"rank_1": 0.5, "rank_5": 0.75, "tpir_at_fpir": {"1e-1": 0.25, "1e-2": None}}
    numbers = numbers_of(["a", "b"]) | {"identification": {"G1": rates, "mean": rates}}
    numbers["accuracy"] = None
    text = evaluation_text({"ijbc": numbers})
    line = next(line for line in text.splitlines() if line.startswith("mean"))
    assert line.split() == ["mean", "0.5000", "0.7500", "0.2500", "-"]


def test_a_picture_for_each_attribute_with_something_to_compare(tmp_path):
    gallery = Gallery(tmp_path)
    numbers = numbers_of(["dark", "fair", "red"])
    draw_subgroups({"lfw": numbers}, gallery)
    assert [picture.path.name for picture in gallery.pictures] == ["subgroups_lfw_hair.png"]
    draw_subgroups({"lfw": numbers_of(["dark"])}, gallery)
    assert len(gallery.pictures) == 1


def test_every_row_has_its_accuracy_and_interval():
    hair = numbers_of(["dark", "fair", "red"])["subgroups"]["hair"]
    figure = subgroup_figure("hair", hair)
    rows = {**hair["levels"], **hair["across"]}
    bars, markers = figure.axes[0].lines[:-1:2], figure.axes[0].lines[1:-1:2]
    intervals = [row["accuracy_interval"] for row in rows.values()]
    assert [bar.get_xdata().tolist() for bar in bars] == intervals
    assert [marker.get_xdata()[0] for marker in markers] == [r["accuracy"] for r in rows.values()]
    assert list(figure.axes[0].lines[-1].get_ydata()) == [2.5, 2.5]  # levels above, pairs below
