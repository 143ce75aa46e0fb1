"""Who is left over, by hand and against a loop over images; and what the decision makes of it."""

import numpy as np
import pytest
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
    cosine = (unit @ unit.T).numpy()

    def level(cosines: NDArray[np.float32]) -> float:
        return float(data.scale(torch.tensor(cosines).mean()))

    def is_owner(i: int, owned: set[int], is_open: set[int]) -> bool:
        others = [j for j in range(len(label)) if label[j] not in (-1, label[i])]
        kin = [j for j in others if level(cosine[i, j]) >= 0.75]
        classes = {int(label[j]) for j in kin}
        if not classes & owned or classes & is_open:
            return False
        rival = max((j for j in others if kept[j]), key=lambda j: cosine[i, j])
        its_class = np.flatnonzero((label == label[rival]) & kept)
        if len(its_class) > 1:
            pairs = np.array([cosine[j, k] for j in its_class for k in its_class if j < k])
            if level(cosine[i, its_class]) >= level(pairs) - 0.2:
                return False
        return level(cosine[i, rival]) < max(level(cosine[i, j]) for j in kin) - 0.1

    classes = set(label.tolist()) - {-1}
    owned = {one for one in classes if kept[label == one].sum() > 1}
    is_open = {one for one in classes if (label == one).sum() >= 3} - owned
    found: set[int] = set()
    while True:
        owners = {
            one: [int(i) for i in np.flatnonzero(label == one) if is_owner(i, owned, is_open)]
            for one in is_open
        }
        new = {one for one, images in owners.items() if len(images) == 1}
        if not new:
            return found
        found |= {owners[one][0] for one in new}
        owned, is_open = owned | new, is_open - new


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


@pytest.mark.parametrize("elsewhere", [[12], [12, 7, 8]])
def test_one_owner_found_tells_of_another(elsewhere: list[int]) -> None:
    """Person 11's last image is in class 11, and one more in class 12: either might be theirs.

    Person 12 can have class 12 alone; then class 11 is what is left for 11.
    """
    data, label, person = scattered()
    rows = np.flatnonzero(person == 11)
    label[rows[1:]] = -1
    label[rows[1 : 1 + len(elsewhere)]] = elsewhere
    strangers = [np.flatnonzero(person == other)[1] for other in (0, 1)]
    label[strangers] = 11
    data = labelled_set(GRAPH, data.embedded, label)
    kept = (label == person) & ~np.isin(label, [11, 12])
    mine = np.flatnonzero((label == person) & np.isin(label, [11, 12]))
    found = np.flatnonzero(left_over(data, torch.from_numpy(kept)).numpy())
    assert found.tolist() == sorted(mine) == sorted(slowly(data, label, kept))
    # Without person 12 nothing tells which of the two it is.
    label[np.flatnonzero((label == 12) & (person == 12))] = -1
    data = labelled_set(GRAPH, data.embedded, label)
    assert not slowly(data, label, kept & (label >= 0))
    assert not left_over(data, torch.from_numpy(kept & (label >= 0))).any()


def test_random_beliefs_against_the_loop() -> None:
    data, whole, person = scattered()
    spoke = 0
    for seed in range(16):
        generator = numpy_generator(seed, "beliefs")
        label = whole.copy()
        for small in generator.integers(4, 7, size=seed % 4):  # classes of two own nobody
            label[np.flatnonzero((label == small) & (person == small))[1:]] = -1
        data = labelled_set(GRAPH, data.embedded, label)
        ownerless = np.isin(label, [12, *generator.integers(13, size=2)])
        doubt = generator.choice([0.1, 0.6])
        kept = (label == person) & ~ownerless & (generator.random(len(label)) > doubt)
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
