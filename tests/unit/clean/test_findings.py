"""Findings on people of whom it is known who is who, beside others that only look alike."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.people import random_unit
from helpers.posterior import PLAIN, SIZE, answer_of, gaussian_people, labelled_as, model_of, said

from facetrain.clean import findings
from facetrain.clean.findings import (
    Merges,
    believable,
    double_names,
    exchanged,
    in_evaluation_set,
    own_members,
)
from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.core.rng import numpy_generator


@pytest.mark.parametrize("num_true", [20, 300])
def test_true_hypotheses_are_found_among_false_ones(num_true: int) -> None:
    """Two thousand false ones at -60 +- 22; their tail reaches into the true ones, 40 +- 12."""
    generator = numpy_generator(0, "hypotheses")
    planted = torch.from_numpy(generator.normal(40, 12, 500))
    true = torch.from_numpy(generator.normal(40, 12, num_true))
    false = torch.from_numpy(generator.normal(-60, 22, 2000))
    chance = believable(torch.cat([true, false]).float(), planted.float())
    named = chance > 0.9
    assert named[:num_true].float().mean() > 0.8
    assert int(named[num_true:].sum()) <= 0.1 * num_true
    assert float(chance.sum()) == pytest.approx(num_true, rel=0.15)
    order = torch.cat([true, false]).argsort()
    assert (chance[order].diff() >= 0).all()  # more evidence is never less believable


def test_nothing_is_found_where_nothing_is() -> None:
    generator = numpy_generator(1, "hypotheses")
    planted = torch.from_numpy(generator.normal(40, 12, 500)).float()
    false = torch.from_numpy(generator.normal(-60, 22, 2000)).float()
    assert not (believable(false, planted) > 0.9).any()
    # Where true ones have less evidence than the set's own, evidence says nothing.
    assert (believable(planted, false) == 0).all()


@pytest.mark.parametrize(("num_asked", "num_planted"), [(0, 5), (5, 0), (0, 0)])
def test_none_asked_or_planted_is_none_believed(num_asked: int, num_planted: int) -> None:
    found = believable(torch.ones(num_asked), torch.ones(num_planted))
    assert found.shape == (num_asked,)
    assert not found.any()


class Case:
    """People under labels, and what the model says of them."""

    def __init__(self, embedding: Any, label: Any, person: Any) -> None:
        self.labelled: LabelledSet = labelled_as(embedding, label)
        self.model: IdentityModel = model_of(labelled_as(embedding, person))
        self.found = answer_of(self.labelled, self.model)
        self.members = own_members(
            self.labelled, self.model, self.found, self.labelled.place_of_row
        )

    def merges(self, seed: int = 0) -> Merges:
        return double_names(self.labelled, self.model, self.found, self.members, seed)


NUM_PEOPLE = 60


def doubled() -> tuple[Any, Any, Any]:
    """Sixty people of 6 images. Of 0 and 1 two, three are under the names 70 and 80; person 3 has
    the face of 2, twenty degrees aside.
    """
    embedding, person = gaussian_people(0, [6] * NUM_PEOPLE, image=0.3)
    generator = numpy_generator(4, "alike")
    centre = random_unit(generator, 1, SIZE)[0] * np.sqrt(SIZE)
    aside = random_unit(generator, 1, SIZE)[0]
    aside -= (aside @ centre) / SIZE * centre
    aside *= np.tan(np.radians(20)) * np.sqrt(SIZE) / np.linalg.norm(aside)
    noise = 0.3 * generator.normal(size=(12, SIZE))
    embedding[12:24] = centre + noise + np.repeat([0 * aside, aside], 6, 0)
    label = person.copy()
    label[[4, 5]] = 70
    label[[9, 10, 11]] = 80
    return embedding, label, person


def test_one_person_under_two_names_is_joined_and_lookalikes_are_not() -> None:
    embedding, label, person = doubled()
    case = Case(embedding, label, person)
    merges = case.merges()
    ids = case.labelled.classes.class_id.tolist()
    into = {ids[one]: ids[to] for one, to in enumerate(merges.into.tolist()) if to >= 0}
    # Into the larger class; of two of equal size into the first.
    assert into == {70: 0, 80: 1}
    expected = [into.get(one, one) for one in ids]
    assert [ids[one] for one in merges.person.tolist()] == expected
    # The lookalikes are neighbours, nearer than any other two people: they were asked about.
    place = [ids.index(2), ids.index(3)]
    rows = case.labelled.place_of_row == place[0]
    assert (case.found.place[rows] == place[1]).any(1).all()
    none = Case(embedding, person, person).merges()
    assert (none.into == -1).all()
    assert torch.equal(none.person, torch.arange(NUM_PEOPLE))


def test_three_names_of_one_person_are_one_group() -> None:
    embedding, person = gaussian_people(1, [9] + [6] * 59, image=0.3)
    label = person.copy()
    label[:2], label[2:5] = 90, 91  # and four under 0
    merges = Case(embedding, label, person).merges()
    assert np.flatnonzero(merges.into >= 0).tolist() == [60, 61]
    assert merges.into[60:].tolist() == [0, 0]


def test_members_are_those_under_the_label() -> None:
    """By hand: each image by its belief over its class's best, whatever class it belongs to."""
    embedding, person = gaussian_people(2, [5] * 8, image=0.4)
    label = person.copy()
    label[[0, 7]] = 3
    label[20] = -1
    case = Case(embedding, label, person)
    place = case.labelled.place_of_row.clone()
    place[1] = 6  # mended: it counts for another class
    share = torch.linspace(0.2, 0.8, 40)[:, None]  # so that no class's best is sure
    case.found = case.found._replace(probability=share * case.found.probability)
    found = own_members(case.labelled, case.model, case.found, place)
    z = case.labelled.embedded.rows(torch.arange(40)) @ case.model.basis
    for one in range(8):
        rows = torch.nonzero(place == one)[:, 0]
        belief = case.found.probability[rows, 0]
        belief = belief / belief.max()
        torch.testing.assert_close(
            found.precision[one], (belief * case.found.counts[rows]).sum(), rtol=1e-4, atol=1e-5
        )
        total = ((belief * case.found.counts[rows])[:, None] * z[rows]).sum(0)
        torch.testing.assert_close(found.total[one], total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 4])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 1, 3], [3, 2, 0, 1]], ids=str)
@pytest.mark.parametrize("moved", [(1, 2), (0, 3)], ids=str)
def test_two_classes_of_two_that_exchanged_an_image(
    seed: int, order: list[int], moved: tuple[int, int]
) -> None:
    """Whoever stands first: one image of each is told, the two of one of the people and the other's
    label, so that what remains under either label is one person.
    """
    embedding, person = gaussian_people(seed, [2, 2] + [6] * 20 + [2] * 4, image=0.35)
    label = person.copy()
    label[moved[0]], label[moved[1]] = 1, 0
    embedding[:4], label[:4], person[:4] = embedding[order], label[order], person[order]
    case = Case(embedding, label, person)
    found = exchanged(case.labelled, case.model, case.found)
    assert len(found.first) == 1
    pair = int(found.first[0]), int(found.second[0])
    mended = label.copy()
    mended[list(pair)] = label[pair[1]], label[pair[0]]
    assert person[mended == 0][0] == person[mended == 0][1]
    assert person[mended == 1][0] == person[mended == 1][1]


def test_larger_classes_that_exchanged_an_image_and_none_that_did_not() -> None:
    embedding, person = gaussian_people(0, [6] * 22 + [2] * 6, image=0.35)
    label = person.copy()
    label[3], label[10] = 1, 0
    label[20] = 7  # goes one way
    case = Case(embedding, label, person)
    found = exchanged(case.labelled, case.model, case.found)
    assert (found.first.tolist(), found.second.tolist()) == ([3], [10])
    untouched = Case(embedding, person, person)
    assert len(exchanged(untouched.labelled, untouched.model, untouched.found).first) == 0


def test_a_circle_of_three_is_no_exchange() -> None:
    """Of A's to B, of B's to C, of C's to A: each pair would mend one of its two."""
    embedding, person = gaussian_people(0, [4] * 3 + [2] * 8, image=0.35)
    label = person.copy()
    label[3], label[7], label[11] = 1, 2, 0
    case = Case(embedding, label, person)
    asked = [
        other in said(case.labelled, case.found, row) for row, other in ((3, 2), (7, 0), (11, 1))
    ]
    assert all(asked)
    assert len(exchanged(case.labelled, case.model, case.found).first) == 0


def test_a_class_of_two_exchanges_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A with B and C with D; nothing is left to be said of what remains, however low the bar."""
    monkeypatch.setattr(findings, "_sent_away", lambda *_: torch.tensor([-100.0]))
    embedding, person = gaussian_people(1, [2] * 4 + [4] * 3, image=0.3)
    label = person.copy()
    label[[1, 2]] = 1, 0
    label[[5, 6]] = 3, 2
    case = Case(embedding, label, person)
    found = exchanged(case.labelled, case.model, case.found)
    pairs = {
        frozenset(label[list(pair)])
        for pair in zip(found.first.tolist(), found.second.tolist(), strict=True)
    }
    assert pairs == {frozenset({0, 1}), frozenset({2, 3})}
    assert len(found.first) == 2


def test_a_set_without_structure_names_no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, person = gaussian_people(0, [6] * 22 + [2] * 6, image=0.35)
    label = person.copy()
    label[3], label[10] = 1, 0
    case = Case(embedding, label, person)
    monkeypatch.setattr(findings, "_MOST_EXCHANGES", 0)
    assert len(exchanged(case.labelled, case.model, case.found).first) == 0


def test_people_of_an_evaluation_set_are_flagged() -> None:
    """Two photographs each of 0, 1, 5 and of ten strangers; 0 also stands under the name 70."""
    embedding, label, person = doubled()
    case = Case(embedding, label, person)
    merges = case.merges()
    generator = numpy_generator(9, "evaluation")
    centre = np.stack([embedding[person == one].mean(0) for one in (0, 5, 30)])
    inside = np.repeat(centre, 2, 0) + 0.3 * generator.normal(size=(6, SIZE))
    strangers = np.repeat(generator.normal(size=(10, SIZE)), 2, 0)
    strangers += 0.3 * generator.normal(size=(20, SIZE))

    def flagged(evaluation: Any, merged: Merges = merges) -> list[int]:
        found = in_evaluation_set(
            case.labelled, case.model, PLAIN, case.members, merged, 3 * evaluation
        )
        return list(case.labelled.classes.class_id[found].tolist())

    assert flagged(np.concatenate([strangers, inside])) == [0, 5, 30, 70]
    assert flagged(strangers) == []
    itself = torch.arange(case.labelled.classes.num_classes)
    alone = Merges(torch.full_like(itself, -1), itself)
    assert 5 in flagged(inside, alone)
