"""Double names of people of whom it is known who is who, beside others that only look alike."""

import pytest
import torch
from helpers.posterior import NUM_PEOPLE, Case, doubled, gaussian_people

from facetrain.clean.double_names import positive_probability
from facetrain.core.rng import numpy_generator


@pytest.mark.parametrize("num_true", [20, 300])
def test_true_hypotheses_are_found_among_false_ones(num_true: int) -> None:
    """Two thousand false ones at -60 +- 22; their tail reaches into the true ones, 40 +- 12."""
    generator = numpy_generator(0, "hypotheses")
    planted = torch.from_numpy(generator.normal(40, 12, 500))
    true = torch.from_numpy(generator.normal(40, 12, num_true))
    false = torch.from_numpy(generator.normal(-60, 22, 2000))
    chance = positive_probability(torch.cat([true, false]).float(), planted.float())
    named = chance > 0.9
    assert named[:num_true].float().mean() > 0.8
    assert int(named[num_true:].sum()) <= 0.1 * num_true
    assert float(chance.sum()) == pytest.approx(num_true, rel=0.15)
    order = torch.cat([true, false]).argsort()
    assert (chance[order].diff() >= 0).all()  # more evidence is never less probable


def test_nothing_is_found_where_nothing_is() -> None:
    generator = numpy_generator(1, "hypotheses")
    planted = torch.from_numpy(generator.normal(40, 12, 500)).float()
    false = torch.from_numpy(generator.normal(-60, 22, 2000)).float()
    assert not (positive_probability(false, planted) > 0.9).any()
    # Where true ones have less evidence than the set's own, evidence says nothing.
    assert (positive_probability(planted, false) == 0).all()


@pytest.mark.parametrize(("num_asked", "num_planted"), [(0, 5), (5, 0), (0, 0)])
def test_none_asked_or_planted_is_none_named(num_asked: int, num_planted: int) -> None:
    found = positive_probability(torch.ones(num_asked), torch.ones(num_planted))
    assert found.shape == (num_asked,)
    assert not found.any()


def test_one_person_under_two_names_is_joined_and_lookalikes_are_not() -> None:
    embedding, label, person = doubled()
    case = Case(embedding, label, person)
    ids = case.labelled.classes.class_id.tolist()
    into = {ids[one]: ids[to] for one, to in enumerate(case.person().tolist()) if to != one}
    # Into the larger class; of two of equal size into the first.
    assert into == {70: 0, 80: 1}
    # The lookalikes are neighbours, nearer than any other two people: they were asked about.
    place = [ids.index(2), ids.index(3)]
    rows = case.labelled.place_of_row == place[0]
    assert (case.found.place[rows] == place[1]).any(1).all()
    assert torch.equal(Case(embedding, person, person).person(), torch.arange(NUM_PEOPLE))


def test_three_names_of_one_person_are_one_group() -> None:
    embedding, person = gaussian_people(1, [9] + [6] * 59, image=0.3)
    label = person.copy()
    label[:2], label[2:5] = 90, 91  # and four under 0
    found = Case(embedding, label, person).person()
    assert found.tolist() == [*range(60), 0, 0]


def test_members_are_those_under_the_label() -> None:
    """By hand: each image by its probability over its class's best, whosever it is."""
    embedding, person = gaussian_people(2, [5] * 8, image=0.4)
    label = person.copy()
    label[[0, 7]] = 3
    label[20] = -1
    case = Case(embedding, label, person)
    place = case.labelled.place_of_row.clone()
    place[1] = 6  # mended: it counts for another class
    share = torch.linspace(0.2, 0.8, 40)[:, None]  # so that no class's best is sure
    case.found = case.found._replace(probability=share * case.found.probability)
    found = case.found.members_by_label(place)
    z = case.labelled.embedded.rows(torch.arange(40)) @ case.model.basis
    for one in range(8):
        rows = torch.nonzero(place == one)[:, 0]
        part = case.found.probability[rows, 0]
        part = part / part.max()
        torch.testing.assert_close(
            found.precision[one],
            (part * case.found.counts[rows]).sum(),
            rtol=1e-4,
            atol=1e-5,
        )
        total = ((part * case.found.counts[rows])[:, None] * z[rows]).sum(0)
        torch.testing.assert_close(found.total[one], total, rtol=1e-4, atol=1e-4)
