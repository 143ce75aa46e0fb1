"""Images that are together where they do not belong, by hand; and what the decision makes of it."""

import numpy as np
import pytest
import torch
from clean_parts import GRAPH, embedded, people
from numpy.typing import NDArray

from facetrain.clean import guests as module
from facetrain.clean.decision import decide
from facetrain.clean.guests import guests
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.training import labelled_set


def visited(
    num_guests: int = 3, num_others: int = 5
) -> tuple[LabelledSet, NDArray[np.int64], NDArray[np.int64]]:
    """A set, its labels, and who everybody is.

    12 people with their classes; class 12 has `num_guests` images of person 0 and one each of
    `num_others` people who have no class.
    """
    embedding, person = people(5, 20, (10, 12))
    label = np.where(person < 12, person, -1)
    label[np.flatnonzero(person == 0)[:num_guests]] = 12
    for other in range(13, 13 + num_others):
        label[np.flatnonzero(person == other)[0]] = 12
    return labelled_set(GRAPH, embedded(embedding, 40), label), label, person


def found_in(data: LabelledSet, kept: NDArray[np.bool_]) -> list[int]:
    belief = torch.from_numpy(kept)
    return torch.nonzero(guests(data, belief, belief.float()))[:, 0].tolist()


def test_a_few_who_are_at_home_elsewhere_are_guests() -> None:
    data, label, person = visited()
    kept = (label == person) | ((label == 12) & (person == 0))
    together = np.flatnonzero((label == 12) & (person == 0)).tolist()
    assert found_in(data, kept) == together
    alone = kept.copy()
    alone[together[1:]] = False
    assert found_in(data, alone) == together[:1]


def test_others_are_none() -> None:
    data, label, person = visited()
    mine = (label == 12) & (person == 0)
    kept = (label == person) | mine
    # Somebody else stays, who has no home: the class is not theirs alone.
    owner = kept.copy()
    owner[np.flatnonzero((label == 12) & (person == 15))] = True
    assert not found_in(data, owner)
    # Nobody is kept in the class that would be their home.
    assert not found_in(data, mine | ((label == person) & (label != 0)))
    # Half of the class or more may be the same person under another name.
    for num_guests, num_others in ((3, 3), (4, 2)):
        data, label, person = visited(num_guests, num_others)
        assert not found_in(data, (label == person) | ((label == 12) & (person == 0)))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data, label, person = visited()
    kept = (label == person) | ((label == 12) & (person == 0))
    whole = found_in(data, kept)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    assert found_in(data, kept) == whole


def test_the_decision_drops_them_but_not_whom_a_person_confirmed() -> None:
    data, label, person = visited()
    together = np.flatnonzero((label == 12) & (person == 0))
    chance = torch.where(torch.from_numpy((label == person) | np.isin(label, 12)), 0.9, 0.1)
    chance[np.flatnonzero((label == 12) & (person != 0))] = 0.1
    confirmed = torch.zeros(len(label), dtype=torch.bool)
    confirmed[together[0]] = True
    decision = decide(data, chance, torch.full((13,), 0.5), confirmed)
    kept = (decision.probability > decision.threshold[label.clip(0)]).numpy()
    assert kept[together].tolist() == [True, False, False]
    assert kept[(label == person) & (label >= 0)].all()
