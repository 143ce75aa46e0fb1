"""Kept images that are all of different people, against a loop over pairs; and the decision."""

import numpy as np
import pytest
import torch
from clean_parts import GRAPH, embedded, people
from numpy.typing import NDArray

from facetrain.clean import strangers as module
from facetrain.clean.decision import decide
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.strangers import strangers
from facetrain.clean.training import labelled_set
from facetrain.core.rng import numpy_generator


def mixed() -> tuple[LabelledSet, NDArray[np.int64], NDArray[np.int64]]:
    """A set, its labels and who everybody is: classes 0 to 7 of their people, 8 to 10 of one image
    each of 5, 3 and 2 others, 11 of two of one person and two others."""
    embedding, person = people(5, 18, (5, 7))
    label = np.where(person < 8, person, -1)
    first = [np.flatnonzero(person == one) for one in range(18)]
    for one, crowd in ((8, range(8, 13)), (9, range(13, 16)), (10, range(16, 18))):
        label[[first[other][0] for other in crowd]] = one
    label[[*first[8][1:3], first[9][1], first[10][1]]] = 11
    return labelled_set(GRAPH, embedded(embedding, 40), label), label, person


def slowly(
    data: LabelledSet, label: NDArray[np.int64], kept: NDArray[np.bool_], alike: float
) -> set[int]:
    """What the docstring says, over all pairs."""
    unit = data.embedded.rows(torch.arange(len(label)))
    level = data.scale(unit @ unit.T).numpy()
    found: set[int] = set()
    for one in set(label.tolist()) - {-1}:
        inside = np.flatnonzero((label == one) & kept)
        pairs = [level[i, j] for i in inside for j in inside if i < j]
        if (label == one).sum() >= 3 and len(inside) > 1 and max(pairs) < alike:
            found |= set(inside.tolist())
    return found


def test_only_classes_without_any_pair() -> None:
    data, label, _ = mixed()
    found = strangers(data, torch.from_numpy(label >= 0)).numpy()
    np.testing.assert_array_equal(found, np.isin(label, [8, 9]))


def test_random_beliefs_against_the_loop() -> None:
    data, label, _ = mixed()
    spoke = set()
    for seed in range(30):
        kept = (label >= 0) & (numpy_generator(seed, "kept").random(len(label)) < 0.4)
        found = set(np.flatnonzero(strangers(data, torch.from_numpy(kept)).numpy()).tolist())
        assert found == slowly(data, label, kept, module._ALIKE)
        spoke |= set(label[list(found)].tolist())
    assert {8, 9, 11} <= spoke


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data, label, _ = mixed()
    kept = torch.from_numpy(label >= 0)
    whole = strangers(data, kept)
    monkeypatch.setattr(module, "_NODES_AT_ONCE", 4)
    assert torch.equal(strangers(data, kept), whole)


def test_the_decision_drops_them_but_not_whom_a_person_confirmed() -> None:
    data, label, person = mixed()
    probability = torch.full((len(label),), 0.9)
    threshold = torch.full((12,), 0.6)
    confirmed = torch.zeros(len(label), dtype=torch.bool)
    sure = int(np.flatnonzero((label == 8) & (person == 10))[0])
    confirmed[sure] = True
    found = decide(data, probability, threshold, confirmed)
    limit = found.threshold[label.clip(0)]
    kept = (found.probability > limit).numpy() | (label < 0)
    assert found.probability[sure] == probability[sure]
    crowd = np.isin(label, [8, 9])
    crowd[sure] = False
    assert not kept[crowd].any()
    assert kept[label < 8].all()
