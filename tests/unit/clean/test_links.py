"""Groups against a union-find."""

import pytest
import torch

from facetrain.clean.links import linked_groups


def union_find(num_things: int, pairs: list[list[int]]) -> list[int]:
    parent = list(range(num_things))

    def root(thing: int) -> int:
        while parent[thing] != thing:
            thing = parent[thing]
        return thing

    for one, other in pairs:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return [root(thing) for thing in range(num_things)]


def test_by_hand() -> None:
    """4 - 2 - 3 is one, named after its smallest; 0, 1 and 5 have no pair but with themselves."""
    found = linked_groups(6, torch.tensor([4, 2, 5]), torch.tensor([2, 3, 5]))
    assert found.tolist() == [0, 1, 2, 2, 2, 5]
    assert linked_groups(3, *torch.empty(2, 0, dtype=torch.int64)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("num_pairs", [10, 80, 150, 800])
def test_against_union_find(num_pairs: int) -> None:
    generator = torch.Generator().manual_seed(num_pairs)
    pairs = torch.randint(200, (num_pairs, 2), generator=generator)
    assert linked_groups(200, *pairs.T).tolist() == union_find(200, pairs.tolist())
