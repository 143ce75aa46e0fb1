"""NAL against Theorem 1, Eq. 6 in loops, finite differences and its equilibrium."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facetrain.core.rng import torch_generator
from facetrain.robust.nal import (
    AttentionBranch,
    equilibrium_attention,
    gate,
    noise_attention_loss,
    target_weight,
)

B, K = 6, 5
BOOSTS = [0.5, 10.0, 50.0]


def draw(*shape: int, name: str) -> Tensor:
    generator = torch_generator(0, "nal", name)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


LOGITS = draw(B, K, name="logits") * 2
LABEL = torch.tensor([0, 1, 2, 3, 4, 0])
ONE_HOT = F.one_hot(LABEL, K).double()
SOFT = F.softmax(draw(B, K, name="target") * 2, dim=1)
ATTENTION = torch.sigmoid(draw(B, name="attention"))


def sparse_target() -> Tensor:
    """Soft targets with two or three classes of weight 0."""
    kept = torch.where(draw(B, K, name="mask") > 0.3, 0.0, SOFT)
    kept[torch.arange(B), LABEL] += 0.1
    return kept / kept.sum(1, keepdim=True)


def logit_gradient(target: Tensor) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    loss = noise_attention_loss(logits.softmax(1), target, ATTENTION, 0.7).sum()
    return torch.autograd.grad(loss, logits)[0]


def test_value_by_hand() -> None:
    """q = (0.75, 0.25), p = (0.5, 0.125), tau = 0.5, boost 2: two terms and the boost."""
    p, q = torch.tensor([[0.5, 0.125]]), torch.tensor([[0.75, 0.25]])
    # 0.5 * (0.5 - 0.75) + 0.75 = 0.625; 0.5 * (0.125 - 0.25) + 0.25 = 0.1875
    expected = -0.75 * math.log(0.625) - 0.25 * math.log(0.1875) + 2 * math.log(2)
    came = noise_attention_loss(p, q, torch.tensor([0.5]), 2.0)
    assert came.tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("boost", BOOSTS)
def test_one_hot(boost: float) -> None:
    """Dense one-hot == the label's column alone == -log(1 - tau (1 - p_y)) - boost log tau."""
    p = LOGITS.softmax(1)
    p_y = p.gather(1, LABEL[:, None])
    expected = -(1 - ATTENTION * (1 - p_y[:, 0])).log() - boost * ATTENTION.log()
    dense = noise_attention_loss(p, ONE_HOT, ATTENTION, boost)
    single = noise_attention_loss(p_y, torch.ones(B, 1), ATTENTION, boost)
    torch.testing.assert_close(dense, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(single, expected, rtol=1e-13, atol=0)


def test_gradient_of_one_hot_is_theorem_1() -> None:
    """Eq. 9: phi (p_j - 1) for the label, phi p_j for the others."""
    p = LOGITS.softmax(1)
    expected = torch.zeros(B, K, dtype=torch.float64)
    for i in range(B):
        p_y = p[i, LABEL[i]]
        phi = p_y / (p_y - 1 + 1 / ATTENTION[i])
        assert 0 < phi < 1
        for j in range(K):
            expected[i, j] = phi * (p[i, j] - 1) if j == LABEL[i] else phi * p[i, j]
    torch.testing.assert_close(logit_gradient(ONE_HOT), expected, rtol=1e-12, atol=1e-15)
    phi = gate(p.gather(1, LABEL[:, None])[:, 0], ATTENTION)
    torch.testing.assert_close(phi[:, None] * (p - ONE_HOT), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("target", [SOFT, sparse_target(), ONE_HOT])
def test_gradient_of_any_target_is_equation_6(target: Tensor) -> None:
    p = LOGITS.softmax(1)
    expected = torch.zeros(B, K, dtype=torch.float64)
    for i in range(B):
        tau, q = ATTENTION[i], target[i]
        w = [tau * q[k] / (tau * (p[i, k] - q[k]) + q[k]) for k in range(K)]
        for j in range(K):
            total = sum(w[k] * p[i, k] for k in range(K))
            expected[i, j] = p[i, j] * total - w[j] * p[i, j]
    torch.testing.assert_close(logit_gradient(target), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("target", [SOFT, sparse_target()])
def test_target_weights_on_cross_entropies_give_equation_6(target: Tensor) -> None:
    """What a head with several targets trains on: sum_k weight_k * (-log p_k)."""
    logits = LOGITS.clone().requires_grad_()
    weight = target_weight(LOGITS.softmax(1), target, ATTENTION)
    loss = -(weight * logits.log_softmax(1)).sum()
    (came,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(came, logit_gradient(target), rtol=1e-12, atol=1e-15)


def test_gradcheck_in_probability_target_and_attention() -> None:
    p = LOGITS.softmax(1).requires_grad_()
    attention = ATTENTION.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, tau: noise_attention_loss(p, sparse_target(), tau, 0.7), (p, attention)
    )
    assert torch.autograd.gradcheck(
        lambda p, tau: target_weight(p, sparse_target(), tau), (p, attention)
    )


def test_classes_without_weight_contribute_nothing_even_at_probability_0() -> None:
    p = torch.tensor([[0.5, 0.0, 0.5]], requires_grad=True)
    attention = torch.tensor([0.3], requires_grad=True)
    target = torch.tensor([[0.6, 0.0, 0.4]])
    came = noise_attention_loss(p, target, attention, 1.0)
    support = torch.tensor([0, 2])
    expected = noise_attention_loss(p[:, support], target[:, support], attention, 1.0)
    torch.testing.assert_close(came, expected)
    came.sum().backward()
    assert p.grad is not None
    assert p.grad[0, 1] == 0
    assert p.grad.isfinite().all()
    assert target_weight(p, target, attention)[0, 1] == 0


@pytest.mark.parametrize("boost", BOOSTS)
def test_equilibrium_is_the_minimum(boost: float) -> None:
    """On a grid no tau is better; below 1 the slope there is 0."""
    p_y = torch.tensor([1e-6, 0.01, 0.05, 0.3, 0.7, 0.999], dtype=torch.float64)
    one = torch.ones(len(p_y), 1, dtype=torch.float64)
    tau = equilibrium_attention(p_y[:, None], one, boost).requires_grad_()
    best = noise_attention_loss(p_y[:, None], one, tau, boost)
    for value in torch.linspace(0.001, 1, 1000, dtype=torch.float64):
        other = noise_attention_loss(p_y[:, None], one, value.expand(len(p_y)), boost)
        assert (other >= best - 1e-12).all()
    (slope,) = torch.autograd.grad(best.sum(), tau)
    inside = tau < 1
    assert inside.any()
    assert not inside.all()
    # Two terms of size boost cancel.
    torch.testing.assert_close(slope[inside], torch.zeros_like(slope[inside]), rtol=0, atol=1e-11)
    assert (slope[~inside] < 0).all()


@pytest.mark.parametrize("boost", BOOSTS)
def test_equilibrium_gate_opens_at_one_over_one_plus_boost(boost: float) -> None:
    """phi* = min(1, boost p / (1 - p)): 1 from 0.667, 0.091, 0.0196 on."""
    opens = 1 / (1 + boost)
    p_y = opens * torch.tensor([1e-3, 0.1, 0.5, 0.999, 1.0, 1.001, 1 / opens], dtype=torch.float64)
    one = torch.ones(len(p_y), 1, dtype=torch.float64)
    phi = gate(p_y, equilibrium_attention(p_y[:, None], one, boost))
    expected = (boost * p_y / (1 - p_y)).clamp_max(1)
    torch.testing.assert_close(phi, expected, rtol=1e-12, atol=0)
    assert (phi[:4] < 1).all()
    assert phi[4:].tolist() == pytest.approx([1, 1, 1], rel=1e-12)


@pytest.mark.parametrize("boost", BOOSTS)
def test_equilibrium_with_several_targets_is_the_minimum(boost: float) -> None:
    """On a grid no tau is better, whatever the targets; where q = p attention is whole."""
    generator = torch.Generator().manual_seed(3)
    q = torch.rand(40, 3, generator=generator, dtype=torch.float64) ** 3
    q[:8, 2] = 0
    q = q / q.sum(1, keepdim=True)
    p = torch.rand(40, 3, generator=generator, dtype=torch.float64) ** 4
    p = p / (p.sum(1, keepdim=True) + torch.rand(40, 1, generator=generator))
    p[9, 0] = 0
    tau = equilibrium_attention(p, q, boost)
    best = noise_attention_loss(p, q, tau, boost)
    for value in torch.linspace(0.001, 1, 1000, dtype=torch.float64):
        assert (noise_attention_loss(p, q, value.expand(40), boost) >= best - 1e-9).all()
    assert (tau < 1).any()
    assert equilibrium_attention(q, q, boost).tolist() == [1.0] * 40
    assert equilibrium_attention(torch.zeros(2, 3), torch.zeros(2, 3), boost).tolist() == [1, 1]


def test_a_rightly_relabelled_sample_has_its_whole_weight() -> None:
    # The target has moved to a class that the model gives 0.99; the given label's p is 0.005.
    # From that alone tau would be 0.1 / (1.1 * 0.995) = 0.091.
    q = torch.tensor([[0.005, 0.99, 0.005]])
    tau = equilibrium_attention(q, q, 0.1)
    assert tau.tolist() == [1.0]
    assert target_weight(q, q, tau).sum().item() == pytest.approx(1.0)


def test_branch() -> None:
    """Half for all at the start; by hand after; gradients reach embedding and weights."""
    branch = AttentionBranch(3)
    embedding = torch.tensor([[1.0, -2.0, 3.0], [0.0, 1.0, 0.0]], requires_grad=True)
    assert branch(embedding).tolist() == [0.5, 0.5]
    with torch.no_grad():
        branch.linear.weight.copy_(torch.tensor([[1.0, 0.5, 0.25]]))
        branch.linear.bias.fill_(0.25)
    attention = branch(embedding)
    # 1 - 1 + 0.75 + 0.25 = 1; 0.5 + 0.25 = 0.75
    expected = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-0.75))]
    assert attention.tolist() == pytest.approx(expected, rel=1e-6)
    noise_attention_loss(torch.full((2, 1), 0.2), torch.ones(2, 1), attention, 1.0).sum().backward()
    assert embedding.grad is not None
    assert (embedding.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_branch_is_held_where_the_loss_stays_finite(sign: int) -> None:
    branch = AttentionBranch(1)
    with torch.no_grad():
        branch.linear.weight.fill_(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        attention = branch(torch.tensor([[sign * 1e4]], dtype=torch.bfloat16))
    assert attention.dtype == torch.float32
    assert 0 < attention.item() < 1
    loss = noise_attention_loss(torch.zeros(1, 1), torch.ones(1, 1), attention, 50.0)
    assert loss.isfinite().all()
    assert gate(torch.zeros(1), attention).item() == 0
