"""Homes against a slow loop, and the cases they were made for."""

from typing import Any

import numpy as np
import torch
from clean_parts import embedded, people
from numpy.typing import NDArray

from facetrain.clean.homes import Homes, find_homes
from facetrain.core.rng import numpy_generator

PERSON = 0.7


def homes_of(embedding: NDArray[Any], label: NDArray[Any], num_context: int = 200) -> Homes:
    images = embedded(embedding, min(num_context, len(label) - 1))
    return find_homes(images, torch.from_numpy(label), int(label.max()) + 1, PERSON)


def slow_place(unit: NDArray[Any], label: NDArray[Any]) -> NDArray[Any]:
    """Five rounds, image by image, among all classes."""
    home = label.copy()
    size = np.bincount(label[label >= 0])
    for _ in range(5):
        centre = {c: [j for j in range(len(label)) if home[j] == c] for c in range(len(size))}
        moved = home.copy()
        for i in np.flatnonzero(label >= 0):
            if size[label[i]] < 3:
                continue
            cosine = {}
            for c, members in centre.items():
                total = sum((unit[j] for j in members if j != i), np.zeros(unit.shape[1]))
                cosine[c] = unit[i] @ total / max(np.linalg.norm(total), 1e-6)
            others = {c: v for c, v in cosine.items() if c != label[i] and len(centre[c]) >= 3}
            best = max(others, key=lambda c: others[c])
            moved[i] = best if others[best] > cosine[label[i]] + 0.2 * PERSON else label[i]
        staying = np.bincount(label[(label >= 0) & (moved == label)], minlength=len(size))
        home = np.where(staying[label] < 3, label, moved)
    return home


def test_places_are_those_of_the_slow_loop() -> None:
    embedding, person = people(0, 9, (8, 16))
    generator = numpy_generator(0, "homes")
    label = np.where(
        generator.random(len(person)) < 0.35, generator.integers(9, size=len(person)), person
    )
    label[::13] = -1
    label[label == 8] = -1
    label[np.flatnonzero(person == 8)[:2]] = 8  # a class of two
    found = homes_of(embedding, label)
    images = embedded(embedding, 10)
    unit = images.rows(torch.arange(len(label))).numpy().astype(np.float64)
    np.testing.assert_array_equal(found.place.numpy(), slow_place(unit, label))
    assert found.away.any()
    assert (found.place.numpy()[label < 0] == -1).all()


def test_intruders_who_outnumber_the_owner_go_home() -> None:
    """Class 0 holds 8 of its own and 9 of person 1, whose own class has 12: no majority tells."""
    embedding, person = people(1, 8, (21, 22))
    label = person.copy()
    label[np.flatnonzero(person == 1)[:9]] = 0
    label[np.flatnonzero(person == 0)[8:]] = -1
    found = homes_of(embedding, label)
    intruder = (label == 0) & (person == 1)
    assert (found.place.numpy()[intruder] == 1).all()
    assert found.clear.numpy()[intruder].mean() > 0.7
    assert not found.away.numpy()[(label == 0) & (person == 0)].any()


def test_two_of_the_owner_among_dispersed_noise_stay() -> None:
    """Class 0 has two images of its own and one of each of six others, who have their classes.

    Its centre is everybody's and nobody's, and a look-alike of the owner lives in class 7.
    """
    embedding, person = people(1, 8, (12, 13))
    label = person.copy()
    label[np.flatnonzero(person == 0)[2:]] = -1
    for other in range(1, 7):
        label[np.flatnonzero(person == other)[0]] = 0
    owner = (label == 0) & (person == 0)
    embedding[person == 7] += 1.2 * embedding[owner].mean(0)
    found = homes_of(embedding, label)
    assert not found.away.numpy()[label == 0].any()
    # With six images of its own the class stands, and the others go.
    label[np.flatnonzero(person == 0)[2:6]] = 0
    away = homes_of(embedding, label).away.numpy()
    assert away[(label == 0) & (person != 0)].all()
    assert not away[(label == 0) & (person == 0)].any()


def test_clean_labels_and_split_identities_stay() -> None:
    embedding, person = people(2, 8, (16, 20))
    label = person.copy()
    half = np.flatnonzero(person == 3)[8:]
    label[half] = 8  # one person under two labels: a matter of merging, not of moving
    found = homes_of(embedding, label)
    assert found.away.float().mean() < 0.02


def test_shuffled_labels_send_nobody_where_they_belong() -> None:
    embedding, person = people(3, 12, (16, 20))
    label = numpy_generator(3, "shuffle").permutation(person)
    found = homes_of(embedding, label)
    moved = found.clear.numpy()
    assert (moved & (found.place.numpy() == person)).mean() < 0.1
