"""Partial FC's sampling, and the optimiser that leaves other rows alone."""

import pytest
import torch

from facetrain.core.rng import torch_generator
from facetrain.dist.mesh import Mesh
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.heads.negatives import position_in_sample, sample_classes
from facetrain.heads.row_optimizer import RowSGD


def test_positives_always_stay_and_size_is_the_rate() -> None:
    target = torch.tensor([[90], [-1], [3], [90]])
    for step in range(20):
        sampled = sample_classes(target, 100, 0.2, torch_generator(0, step))
        assert len(sampled) == 20
        assert {3, 90} <= set(sampled.tolist())
        assert sampled.diff().min() > 0  # ascending, no row twice
        position = position_in_sample(target, sampled)
        assert sampled[position[[0, 2, 3], 0]].tolist() == [90, 3, 90]
        assert position[1] == -1


def test_more_positives_than_the_rate_are_all_kept() -> None:
    target = torch.arange(30)[:, None]
    sampled = sample_classes(target, 100, 0.1, torch_generator(0))
    assert sampled.tolist() == list(range(30))


def test_negatives_are_drawn_evenly() -> None:
    """Class 0 is always in; each of 99 others is in 19 of 99 times: 2000 draws, 6 sigma."""
    count = torch.zeros(100)
    for step in range(2000):
        count[sample_classes(torch.tensor([[0]]), 100, 0.2, torch_generator(1, step))] += 1
    expected, sigma = 2000 * 19 / 99, (2000 * 19 / 99 * 80 / 99) ** 0.5
    assert count[0] == 2000
    assert (count[1:] - expected).abs().max() < 6 * sigma


def test_empty_shard() -> None:
    sampled = sample_classes(torch.tensor([[-1]]), 0, 0.5, torch_generator(0))
    assert sampled.shape == (0,)
    assert position_in_sample(torch.tensor([[-1]]), sampled).tolist() == [[-1]]


def test_the_sample_is_a_function_of_the_step() -> None:
    head = MarginHead(HeadConfig(sample_rate=0.1), 200, 4, Mesh.single(), seed=1)
    embedding, label = torch.randn(3, 4), torch.tensor([1, 2, 3])
    seen = []
    for step in (0, 1, 0):
        head.begin_step(step)
        head.zero_grad()
        head(embedding, label).loss.sum().backward()
        assert head.weight.grad is not None
        seen.append(head.weight.grad.coalesce().indices()[0].tolist())
    assert seen[0] == seen[2] != seen[1]
    assert len(seen[0]) == 20


def test_dense_gradients_step_as_torch_sgd() -> None:
    start = torch.randn(5, 3)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    our_sgd = RowSGD([ours], 0.1, momentum=0.9, weight_decay=0.01)
    their_sgd = torch.optim.SGD([theirs], 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        gradient = torch.randn(5, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        our_sgd.step()
        their_sgd.step()
        torch.testing.assert_close(ours, theirs)


def test_sparse_gradients_touch_only_their_rows() -> None:
    """Two steps worked by hand: lr 0.5, momentum 0.5, weight decay 0.1, gradient 1 each."""
    weight = torch.ones(4, 2, requires_grad=True)
    optimizer = RowSGD([weight], 0.5, momentum=0.5, weight_decay=0.1)
    for rows in ([1, 2], [2]):
        index = torch.tensor([rows])
        values = torch.ones(len(rows), 2)
        weight.grad = torch.sparse_coo_tensor(index, values, (4, 2), check_invariants=True)
        optimizer.step()
    # Row 1: velocity 1 + 0.1 * 1 = 1.1, weight 1 - 0.55 = 0.45; then it rests.
    # Row 2: the same, then velocity 0.5 * 1.1 + 1 + 0.1 * 0.45 = 1.595, weight 0.45 - 0.7975.
    expected = torch.tensor([1.0, 0.45, -0.3475, 1.0])[:, None].expand(4, 2)
    torch.testing.assert_close(weight.detach(), expected)
    buffer = optimizer.state[weight]["momentum_buffer"]
    torch.testing.assert_close(buffer, torch.tensor([0, 1.1, 1.595, 0])[:, None].expand(4, 2))
    assert weight[[0, 3]].eq(1).all()


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_rate_one_trains_as_the_exact_head(chunk_size: int | None) -> None:
    """A sample of all rows, forced through the sampling path, equals the dense path."""
    mesh = Mesh.single()
    # round(0.99 * 20) = 20 rows: every class is drawn, in the sampled path.
    sampled = MarginHead(HeadConfig(sample_rate=0.99, chunk_size=chunk_size), 20, 4, mesh, 0)
    exact = MarginHead(HeadConfig(), 20, 4, mesh, 0)
    sampled, exact = sampled.double(), exact.double()
    optimizers = [RowSGD(head.parameters(), 0.1, 0.9, 5e-4) for head in (sampled, exact)]
    for step in range(5):
        embedding, label = torch.randn(6, 4, dtype=torch.float64), torch.randint(20, (6,))
        sampled.begin_step(step)
        for head, optimizer in zip((sampled, exact), optimizers, strict=True):
            optimizer.zero_grad()
            head(embedding, label).loss.mean().backward()
            optimizer.step()
    assert sampled.weight.grad is not None
    assert sampled.weight.grad.is_sparse
    # float64 with another order of sums, five steps of logits near 64.
    torch.testing.assert_close(sampled.weight, exact.weight, rtol=1e-10, atol=1e-10)


def test_gradient_accumulation_adds_sampled_rows() -> None:
    """Two micro-batches with different positives: rows of either, summed where in both."""
    head = MarginHead(HeadConfig(sample_rate=0.1), 100, 4, Mesh.single(), 0)
    head.begin_step(0)
    embedding = torch.randn(2, 1, 4)
    parts = []
    for micro_batch in range(2):
        head.zero_grad()
        head(embedding[micro_batch], torch.tensor([40 + micro_batch])).loss.sum().backward()
        assert head.weight.grad is not None
        parts.append(head.weight.grad.to_dense())
    head.zero_grad()
    for micro_batch in range(2):
        head(embedding[micro_batch], torch.tensor([40 + micro_batch])).loss.sum().backward()
    torch.testing.assert_close(head.weight.grad.to_dense(), parts[0] + parts[1])
