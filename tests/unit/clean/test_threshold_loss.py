"""The corrected Eq. 6 against Algorithm 1, and its gradients against Eqs. 13-14."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from facetrain.clean.threshold_loss import threshold_loss
from facetrain.core.rng import torch_generator

DRAWS = 20_000
# p, t and both margins on a grid that meets every comparison at equality.
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


def algorithm_1(p: float, t: float, is_clean: bool, m_fp: float, m_fn: float) -> float:
    """The supplement's branches, one by one; the logarithm's argument clamped like ours."""

    def log(argument: float) -> float:
        return math.log(max(argument, 1e-6))

    if not is_clean:
        if t > m_fp:
            if p > t - m_fp:
                return -log(1 - (p - (t - m_fp)))  # Eq. 7
            return 0.0  # Eq. 8
        return -log(1 - p)  # Eq. 9
    if t + m_fn < 1:
        if p < t + m_fn:
            return -log(1 - (t + m_fn - p))  # Eq. 10
        return 0.0  # Eq. 11
    return -log(p)  # Eq. 12


def literal_equation_6(p: float, t: float, is_clean: bool, m_fp: float, m_fn: float) -> float:
    """As printed."""
    if is_clean:
        argument = 1 - max(1 - p - max(t - m_fn, 0), 0)
    else:
        argument = 1 - max(p - max(t - m_fp, 0), 0)
    return -math.log(max(argument, 1e-6))


def loss(p: Tensor, t: Tensor, is_clean: Tensor, m_fp: float, m_fn: float) -> Tensor:
    return threshold_loss(p, t, is_clean, margin_false_positive=m_fp, margin_false_negative=m_fn)


def draws() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch_generator(0, "threshold")
    p, t = torch.rand(2, DRAWS, generator=generator, dtype=torch.float64)
    return p, t, torch.rand(DRAWS, generator=generator) < 0.5


@pytest.mark.parametrize(("m_fp", "m_fn"), [(0.1, 0.1), (0.02, 0.3), (0.0, 0.0), (0.7, 0.9)])
def test_it_is_algorithm_1(m_fp: float, m_fn: float) -> None:
    p, t, is_clean = draws()
    found = loss(p, t, is_clean, m_fp, m_fn)
    rows = zip(p.tolist(), t.tolist(), is_clean.tolist(), strict=True)
    expected = torch.tensor([algorithm_1(*row, m_fp, m_fn) for row in rows], dtype=torch.float64)
    # An argument of 1e-4 is known to 1e-16: its logarithm to 1e-12.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert (expected > 0).float().mean() > 0.2


def test_it_is_algorithm_1_at_every_edge() -> None:
    for m_fp, m_fn in itertools.product(GRID, GRID):
        rows = list(itertools.product(GRID, GRID, (False, True)))
        p, t, is_clean = (torch.tensor(column) for column in zip(*rows, strict=True))
        expected = [algorithm_1(*row, m_fp, m_fn) for row in rows]
        found = loss(p.double(), t.double(), is_clean, m_fp, m_fn)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_worked_numbers() -> None:
    """Margins 0.1 and 0.2: one image for each of Eqs. 7-12."""
    p = torch.tensor([0.8, 0.3, 0.4, 0.3, 0.9, 0.6])
    t = torch.tensor([0.6, 0.6, 0.05, 0.5, 0.5, 0.85])
    is_clean = torch.tensor([False, False, False, True, True, True])
    # 1 - (0.8 - 0.5) = 0.7; 0; 1 - 0.4 = 0.6; 1 - (0.7 - 0.3) = 0.6; 0; 0.6
    expected = -torch.tensor([0.7, 1.0, 0.6, 0.6, 1.0, 0.6]).log()
    torch.testing.assert_close(loss(p, t, is_clean, 0.1, 0.2), expected)


def test_the_printed_equation_6_is_another_function() -> None:
    """Clean images only; for p 0.1, t 0.9, m_fn 0.1 it gives -log 0.9, Algorithm 1 -log 0.1."""
    assert literal_equation_6(0.1, 0.9, True, 0.1, 0.1) == pytest.approx(-math.log(0.9))
    assert algorithm_1(0.1, 0.9, True, 0.1, 0.1) == pytest.approx(-math.log(0.1))
    assert loss(
        torch.tensor([0.1]), torch.tensor([0.9]), torch.tensor([True]), 0.1, 0.1
    ).item() == pytest.approx(-math.log(0.1))
    p, t, is_clean = draws()
    found = loss(p, t, is_clean, 0.1, 0.1)
    rows = zip(p.tolist(), t.tolist(), is_clean.tolist(), strict=True)
    literal = torch.tensor([literal_equation_6(*row, 0.1, 0.1) for row in rows])
    difference = (found - literal).abs()
    assert difference[~is_clean].max() < 1e-6
    assert difference[is_clean].max() > 1


def test_gradients_are_equations_13_and_14() -> None:
    m_fp, m_fn = 0.1, 0.15
    p, t, is_clean = draws()
    t.requires_grad_()
    found = torch.autograd.grad(loss(p, t, is_clean, m_fp, m_fn).sum(), t)[0]
    t = t.detach()
    expected = torch.zeros_like(t)
    false_positive = ~is_clean & (t > m_fp) & (p > t - m_fp)
    false_negative = is_clean & (t + m_fn < 1) & (p < t + m_fn)
    expected[false_positive] = (-1 / (1 - (p - (t - m_fp))))[false_positive]
    expected[false_negative] = (1 / (1 - (t + m_fn - p)))[false_negative]
    assert false_positive.sum() > 1000
    assert false_negative.sum() > 1000
    torch.testing.assert_close(found, expected)


def test_a_comparison_that_meets_equality_gives_no_gradient() -> None:
    """t = m_fp, p = t - m_fp, t + m_fn = 1, p = t + m_fn, in binary fractions."""
    p = torch.tensor([0.5, 0.25, 0.5, 0.75])
    t = torch.tensor([0.25, 0.5, 0.75, 0.5], requires_grad=True)
    is_clean = torch.tensor([False, False, True, True])
    gradient = torch.autograd.grad(loss(p, t, is_clean, 0.25, 0.25).sum(), t)[0]
    assert torch.equal(gradient, torch.zeros(4))


def test_it_is_zero_exactly_between_the_margins() -> None:
    """Noise at 0.2 at most, clean from 0.7 on: zero for 0.2 + 0.1 <= t <= 0.7 - 0.15."""
    p = torch.tensor([0.05, 0.2, 0.7, 0.95], dtype=torch.float64)
    is_clean = torch.tensor([False, False, True, True])
    t = torch.linspace(0, 1, 1001, dtype=torch.float64) + 1e-9  # off the two ends
    total = torch.stack([loss(p, at.expand(4), is_clean, 0.1, 0.15).sum() for at in t])
    assert torch.equal(total == 0, (t > 0.3) & (t < 0.55))


def test_the_argument_is_clamped() -> None:
    """Sure and wrong, without room: -log 1e-6, no gradient and no infinity."""
    p = torch.tensor([0.0, 1.0], requires_grad=True)
    found = loss(p, torch.tensor([1.0, 0.0]), torch.tensor([True, False]), 0.1, 0.1)
    torch.testing.assert_close(found.detach(), torch.full((2,), 13.815511))
    assert torch.equal(torch.autograd.grad(found.sum(), p)[0], torch.zeros(2))
