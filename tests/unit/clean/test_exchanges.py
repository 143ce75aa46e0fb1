"""Images that changed places, among people of whom it is known who is who."""

import pytest
import torch
from helpers.posterior import Case, gaussian_people, said

from facetrain.clean import exchanges as module
from facetrain.clean.exchanges import exchanged


def exchanges(case: Case) -> torch.Tensor:
    return exchanged(case.found, 0)


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
    found = exchanges(case)
    assert found.shape == (2, 1)
    pair = int(found[0, 0]), int(found[1, 0])
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
    found = exchanges(case)
    assert found.tolist() == [[3], [10]]
    untouched = Case(embedding, person, person)
    assert exchanges(untouched).numel() == 0


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
    assert exchanges(case).numel() == 0


def test_a_class_of_two_exchanges_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A with B and C with D; nothing is left to be said of what remains, however low the bar."""
    monkeypatch.setattr(module, "_planted_gains", lambda *_: torch.tensor([-100.0]))
    embedding, person = gaussian_people(1, [2] * 4 + [4] * 3, image=0.3)
    label = person.copy()
    label[[1, 2]] = 1, 0
    label[[5, 6]] = 3, 2
    case = Case(embedding, label, person)
    found = exchanges(case)
    pairs = {frozenset(label[pair]) for pair in found.T.tolist()}
    assert pairs == {frozenset({0, 1}), frozenset({2, 3})}
    assert found.shape == (2, 2)


def test_a_set_without_structure_names_no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, person = gaussian_people(0, [6] * 22 + [2] * 6, image=0.35)
    label = person.copy()
    label[3], label[10] = 1, 0
    case = Case(embedding, label, person)
    monkeypatch.setattr(module, "_MOST", 0)
    assert exchanges(case).numel() == 0
