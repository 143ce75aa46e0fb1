"""Who is left over, by hand and against a loop over images; and what the decision makes of it."""

import numpy as np
import torch
from clean_parts import GRAPH, embedded, people
from numpy.typing import NDArray

from facetrain.clean.decision import decide
from facetrain.clean.elimination import left_over
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.training import labelled_set
from facetrain.core.rng import numpy_generator


def scattered() -> tuple[LabelledSet, NDArray[np.int64], NDArray[np.int64]]:
    """A set, its labels, and who everybody is.

    12 people with their classes. Person 12 has one image in class 12, beside one each of 0 to 3,
    and three others in the classes 4, 5 and 6.
    """
    embedding, person = people(5, 13, (10, 12))
    label = person.copy()
    rows = np.flatnonzero(person == 12)
    label[rows[1:4]] = [4, 5, 6]
    label[rows[4:]] = -1
    for other in range(4):
        label[np.flatnonzero(person == other)[0]] = 12
    return labelled_set(GRAPH, embedded(embedding, 40), label), label, person


def slowly(data: LabelledSet, label: NDArray[np.int64], kept: NDArray[np.bool_]) -> set[int]:
    """What the docstring says, image by image, over all other images rather than the nearest."""
    unit = data.embedded.rows(torch.arange(len(label)))
    level = data.scale(unit @ unit.T).numpy()
    found = set()
    for one in set(label.tolist()) - {-1}:
        inside = np.flatnonzero(label == one)
        if len(inside) < 3 or kept[inside].sum() > 1:
            continue
        owners = []
        for i in inside:
            others = [j for j in range(len(label)) if label[j] not in (-1, one)]
            kin = [
                level[i, j]
                for j in others
                if not kept[j] and kept[label == label[j]].sum() > 1 and level[i, j] >= 0.75
            ]
            rivals = [level[i, j] for j in others if kept[j]]
            if kin and max(rivals) < max(kin) - 0.1:
                owners.append(int(i))
        if len(owners) == 1:
            found.add(owners[0])
    return found


def test_the_last_image_of_its_owner_is_found() -> None:
    data, label, person = scattered()
    kept = label == person
    kept[label == 12] = False
    owner = np.flatnonzero((label == 12) & (person == 12))
    found = left_over(data, torch.from_numpy(kept)).numpy()
    assert np.flatnonzero(found).tolist() == owner.tolist() == list(slowly(data, label, kept))
    kept[np.flatnonzero((label == 12) & (person == 0))] = True  # a stranger was taken for clean
    assert left_over(data, torch.from_numpy(kept)).numpy().nonzero()[0].tolist() == owner.tolist()


def test_nothing_follows_where_more_is_possible() -> None:
    data, label, person = scattered()
    kept = label == person
    kept[label == 12] = False

    def none_left_over(kept: NDArray[np.bool_]) -> bool:
        assert not slowly(data, label, kept)
        return not left_over(data, torch.from_numpy(kept)).any()

    two = kept.copy()
    two[np.flatnonzero(label == 12)[:2]] = True
    assert none_left_over(two)  # the class has owners
    believed = kept | ((person == 12) & (label == 5))
    assert none_left_over(believed)  # its kin is believed elsewhere
    empty = kept & ~np.isin(label, [4, 5, 6])
    assert none_left_over(empty)  # the other classes might be its own as well
    # Person 3 has lost its class too: two may own class 12.
    homeless = np.flatnonzero((person == 3) & (label == 3))
    label[homeless], label[homeless[0]] = -1, 7
    data = labelled_set(GRAPH, data.embedded, label)
    rivals = (label == person) & (label != 12)
    assert none_left_over(rivals)


def test_only_classes_of_three_have_one_left_over() -> None:
    data, label, person = scattered()
    small = label.copy()
    small[np.flatnonzero((label == 12) & (person != 12))[1:]] = -1
    pair = labelled_set(GRAPH, data.embedded, small)
    kept = (small == person) & (small != 12)
    assert not left_over(pair, torch.from_numpy(kept)).any()


def test_random_beliefs_against_the_loop() -> None:
    data, label, person = scattered()
    spoke = 0
    for seed in range(12):
        generator = numpy_generator(seed, "beliefs")
        ownerless = np.isin(label, generator.integers(13, size=3))
        kept = (label == person) & ~ownerless & (generator.random(len(label)) < 0.9)
        found = np.flatnonzero(left_over(data, torch.from_numpy(kept)).numpy())
        assert set(found.tolist()) == slowly(data, label, kept)
        spoke += len(found)
    assert spoke


def test_the_decision_keeps_the_owner_and_nobody_else() -> None:
    data, label, person = scattered()
    clean = torch.from_numpy(label == person)
    probability = clean.float() * 0.9 + 0.05
    inside, owner = label == 12, (label == 12) & (person == 12)
    probability[torch.from_numpy(inside)] = 0.0
    stranger = np.flatnonzero((label == 12) & (person == 2))[0]
    probability[stranger] = 0.8
    threshold = torch.full((13,), 0.6)
    nobody = torch.zeros_like(clean)
    found = decide(data, probability, threshold, nobody)
    kept = (found.probability > found.threshold[label.clip(0)]).numpy()
    assert kept[owner].all()
    assert not kept[inside & ~owner].any()
    rest = (label >= 0) & ~inside
    np.testing.assert_array_equal(kept[rest], clean.numpy()[rest])
    # A person's word stands.
    confirmed = nobody.clone()
    confirmed[stranger] = True
    found = decide(data, probability, threshold, confirmed)
    assert found.probability[stranger] == probability[stranger]
