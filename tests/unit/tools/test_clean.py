"""The sets of the cleaning benchmark, and its rows on a small one."""

from pathlib import Path

import numpy as np
import pytest
from helpers.people import GRAPH, PRETRAIN, people

from facetrain.clean.adapter import AdapterConfig
from facetrain.clean.clean import CleanConfig
from facetrain.clean.training import MetaConfig
from facetrain.core.rng import numpy_generator
from facetrain.data.features import Features
from tools.benchmarks.clean import lfw_noise, small_sets
from tools.benchmarks.clean import run as bench_clean


@pytest.mark.parametrize("added", [False, True])
def test_uniform_noise_is_what_it_says(added: bool) -> None:
    """Row r is an image of identity r // 10; identities 0 to 19 are inside."""
    inside, outside = np.arange(200), np.arange(200, 700)
    label = inside // 10
    plant = lfw_noise.add_uniform if added else lfw_noise.plant_uniform
    clean = lfw_noise.Target(inside, label, np.ones(200, np.bool_))
    rows, noisy, is_clean = plant(clean, outside, 0.4, numpy_generator(0, "noise"))
    truth = (rows < 200) & (rows // 10 == noisy)
    np.testing.assert_array_equal(is_clean, truth)
    assert np.mean(~is_clean) == pytest.approx(0.4, abs=0.02)
    strangers = rows >= 200
    assert np.mean(strangers[~is_clean]) == pytest.approx(0.5, abs=0.1)
    assert len(set(rows[strangers])) == strangers.sum()
    if added:
        assert set(rows[is_clean]) == set(inside)
        assert (np.bincount(noisy[~is_clean]) == 7).all()  # 7 of 17 images
    else:
        assert len(rows) == 200


def test_every_row_is_there_and_the_stage_is_the_stage(tmp_path: Path) -> None:
    embedding, label = people(0, 12)
    source = Features(embedding, label, np.ones(len(label), np.bool_))
    other, person = people(1, 10)
    noisy = np.where(np.arange(len(person)) % 5 == 0, (person + 1) % 10, person)
    target = Features(other, noisy, noisy == person)
    config = CleanConfig(
        graph=GRAPH,
        pretrain=PRETRAIN,
        meta=MetaConfig(num_rounds=1, num_steps=2),
        adapter=AdapterConfig(num_draws=1),
    )
    rows = dict(bench_clean.Cleaners(source, config, inputs=False, drift=True).rows(target))
    prefixes = ("target statistics", "gcn")
    parts = ("", " + adapter", " + meta, first order", " + meta", " + meta + adapter")
    expected = {prefix + part for prefix in prefixes for part in parts} | {"facetrain clean"}
    assert expected <= rows.keys()
    assert rows["facetrain clean"] > 0.8
    shuffled = numpy_generator(0, "shuffle").permutation(target.is_clean)
    control = Features(other, noisy, shuffled)
    rows = dict(bench_clean.Cleaners(source, config, inputs=False, drift=False).rows(control))
    assert rows["facetrain clean"] < 0.5


def test_a_small_set_knows_whose_its_images_are() -> None:
    """Labels shuffled beside their truth are no noise that can be found: the control."""
    embedding, label = people(2, 60, images=(4, 9))
    kind = next(kind for kind in small_sets.KINDS if "strangers" in kind.name)
    chosen, given, true = small_sets.one_set(embedding, label, kind, 0)
    whose = {row.tobytes(): person for row, person in zip(embedding, label, strict=True)}
    person = np.array([whose[row.tobytes()] for row in chosen])
    clean = given == true
    assert 0.2 < np.mean(~clean) < 0.4
    assert all(len(set(person[clean & (given == one)])) == 1 for one in np.unique(given[clean]))
    owner = {one: person[clean & (given == one)][0] for one in np.unique(given[clean])}
    moved = ~clean & (true >= 0)
    assert [owner[one] for one in true[moved]] == person[moved].tolist()
    assert not np.isin(person[true < 0], list(owner.values())).any()
    assert small_sets.measured(chosen, given, true)["F1"] > 0.9
    shuffled = numpy_generator(0, "shuffled").permutation(true)
    assert small_sets.measured(chosen, given, shuffled)["F1"] < 0.7
