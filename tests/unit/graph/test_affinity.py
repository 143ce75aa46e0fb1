"""Eq. 16's weights, by hand."""

import torch

from facetrain.graph.affinity import normalised_affinity


def test_a_row_is_each_neighbours_share() -> None:
    similarity = torch.tensor(
        [
            [0.6, 0.2, 0.0],  # sum 0.8
            [0.5, -0.3, 0.5],  # a negative cosine counts as zero: sum 1.0
            [-0.1, -0.2, -0.3],  # nothing positive
            [3e-9, 4e-9, 0.0],  # 7e-9 is under the least sum
            [3e-9, 9e-9, 0.0],  # 1.2e-8 is not
            [0.9, 0.7, 0.1],  # one real neighbour: all of the weight
            [0.9, 0.7, 0.1],  # none
        ],
        dtype=torch.float64,
    )
    mask = torch.ones(7, 3, dtype=torch.bool)
    mask[5, 1:] = False
    mask[6] = False
    expected = torch.tensor(
        [
            [0.75, 0.25, 0.0],
            [0.5, 0.0, 0.5],
            [0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0],
            [0.25, 0.75, 0.0],
            [1.0, 0.0, 0.0],
            [0.0, 0.0, 0.0],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(normalised_affinity(similarity, mask), expected)


def test_what_a_padded_slot_holds_does_not_matter() -> None:
    mask = torch.tensor([[True, True, False]])
    for held in (5.0, float("inf"), float("nan")):
        found = normalised_affinity(torch.tensor([[0.3, 0.1, held]]), mask)
        torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0.0]]))
