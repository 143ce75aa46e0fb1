"""The head in one process: worked values, finite differences, invariances, bad input.

Parity with the dense formula, at world sizes 1, 2 and 3, is in tests/dist/test_head.py.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facetrain.core.errors import ConfigError, DataError
from facetrain.dist.mesh import Mesh
from facetrain.heads import sharded_softmax
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead

MESH = Mesh.single()


def make_head(centre: Tensor, **config: Any) -> MarginHead:
    head = MarginHead(HeadConfig(**config), *centre.shape, MESH, seed=0).to(centre.dtype)
    with torch.no_grad():
        head.weight.copy_(centre)
    return head


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_worked_loss() -> None:
    """x at 60 degrees from its centre (1,0), 30 from (0,2); s = 2, m = 0.25."""
    x = torch.tensor([[3 * 0.5, 3 * math.sqrt(0.75)]], dtype=torch.float64)
    head = make_head(torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double(), scale=2, cosine_margin=0.25)
    out = head(x, torch.tensor([0]))
    # logits 2 * (0.5 - 0.25) = 0.5 and 2 * 0.8660254 = 1.7320508
    # loss = log(1 + e^{1.2320508}) = log(4.4282517) = 1.4880050; p = e^{-1.488} = 0.2258227
    assert out.loss.item() == pytest.approx(1.4880050, abs=1e-6)
    assert out.target_probability.item() == pytest.approx(0.2258227, abs=1e-6)
    assert out.target_cosine.item() == pytest.approx(0.5, abs=1e-12)
    assert out.negative_logsumexp.item() == pytest.approx(1.7320508, abs=1e-7)
    plain = F.softplus(out.negative_logsumexp - 2 * out.target_cosine)
    # without a margin: log(1 + e^{0.7320508}) = 1.1250
    assert plain.item() == pytest.approx(math.log(1 + math.exp(0.7320508)), abs=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("kind", ["cosface", "arcface", "combined"])
def test_gradients_are_finite_differences(kind: str, chunk_size: int | None) -> None:
    config: dict[str, Any] = {"margin": kind, "scale": 6.0, "chunk_size": chunk_size}
    if kind == "combined":
        config |= {"angular_factor": 1.2, "angular_margin": 0.2, "cosine_margin": 0.1}
    label, extra = torch.tensor([0, 2, -1]), torch.tensor([[1], [2], [0]])

    def loss(*inputs: Tensor) -> Tensor:
        embedding, centre, margin, weight, extra_weight = inputs
        head = make_head(centre.detach(), **config)
        del head.weight
        head.weight = centre
        out = head(embedding, label, margin, extra)
        both: Tensor = weight * out.loss + (extra_weight * out.extra_loss).sum(1)
        return both

    inputs = (normal(3, 4), normal(5, 4, seed=1), normal(3).sigmoid() / 2, normal(3), normal(3, 1))
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_margin_gradient_is_the_probability() -> None:
    """For CosFace dL/dm = s (1 - p_y), and MvCoM's identity d(grad L)/dm = s p_y grad L."""
    scale = 8.0
    embedding = normal(4, 3).requires_grad_()
    head = make_head(normal(5, 3, seed=1), scale=scale)
    label = torch.tensor([0, 1, 4, 4])
    margin = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    out = head(embedding, label, margin)
    (grad_margin,) = torch.autograd.grad(out.loss.sum(), margin, retain_graph=True)
    torch.testing.assert_close(grad_margin, scale * (1 - out.target_probability))
    (grad,) = torch.autograd.grad(out.loss.sum(), embedding)
    step = 1e-5
    (up,) = torch.autograd.grad(head(embedding, label, margin + step).loss.sum(), embedding)
    (down,) = torch.autograd.grad(head(embedding, label, margin - step).loss.sum(), embedding)
    # d(grad L)/dm = s p_y grad L, the closed form that spares MvCoM second-order autograd.
    expected = scale * out.target_probability[:, None] * grad
    torch.testing.assert_close((up - down) / (2 * step), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("with_extra", [False, True])
def test_absent_label_has_no_loss_and_no_gradient(with_extra: bool) -> None:
    """The middle sample leaves no trace: the others' gradients are as without it."""
    embedding = normal(3, 4).requires_grad_()
    head = make_head(normal(5, 4, seed=1))
    label = torch.tensor([2, -1, 3])
    extra = torch.tensor([[1], [1], [-1]]) if with_extra else None
    out = head(embedding, label, None, extra)
    (out.loss.sum() + out.extra_loss.sum()).backward()
    assert out.loss[1] == out.target_probability[1] == out.target_cosine[1] == 0
    assert out.extra_loss[1:].eq(0).all()
    assert out.plain_probability[1].eq(0).all()
    assert embedding.grad is not None
    assert head.weight.grad is not None
    grad, grad_centre = embedding.grad.clone(), head.weight.grad.clone()
    assert grad[1].eq(0).all()

    head.zero_grad()
    embedding.grad = None
    kept = [0, 2]
    out = head(embedding[kept], label[kept], None, None if extra is None else extra[kept])
    (out.loss.sum() + out.extra_loss.sum()).backward()
    torch.testing.assert_close(embedding.grad, grad)
    torch.testing.assert_close(head.weight.grad, grad_centre)


def test_permuting_classes_permutes_the_gradient() -> None:
    centre, embedding, label = normal(7, 4), normal(5, 4, seed=1), torch.tensor([0, 3, 6, 6, 2])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    inverse = order.argsort()
    head, permuted = make_head(centre, chunk_size=3), make_head(centre[order], chunk_size=3)
    loss, permuted_loss = head(embedding, label).loss, permuted(embedding, inverse[label]).loss
    torch.testing.assert_close(loss, permuted_loss)
    loss.sum().backward()
    permuted_loss.sum().backward()
    assert head.weight.grad is not None
    torch.testing.assert_close(head.weight.grad[order], permuted.weight.grad)


def test_scaling_embedding_or_centre_changes_nothing_and_zero_stays_finite() -> None:
    centre, embedding, label = normal(7, 4), normal(5, 4, seed=1), torch.tensor([0, 3, 6, 6, 2])
    loss = make_head(centre)(embedding, label).loss
    torch.testing.assert_close(make_head(7 * centre)(0.01 * embedding, label).loss, loss)
    head = make_head(torch.zeros(3, 4), scale=64)
    leaf = torch.zeros(2, 4, requires_grad=True)
    head(leaf, torch.tensor([0, 1])).loss.sum().backward()
    assert head.weight.grad is not None
    assert leaf.grad is not None
    assert torch.isfinite(head.weight.grad).all()
    assert torch.isfinite(leaf.grad).all()


def test_extreme_logits_keep_their_loss() -> None:
    """An embedding opposite to its centre and on another's: loss = s (1 + 1 + m), no overflow."""
    centre = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    head = make_head(centre, scale=200.0, cosine_margin=0.5, chunk_size=1)
    embedding = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    out = head(embedding, torch.tensor([0, 0]))
    assert out.loss[0].item() == pytest.approx(200 * 2.5)
    assert out.loss[1].item() == pytest.approx(0.0, abs=1e-30)
    out.loss.sum().backward()
    assert embedding.grad is not None
    assert torch.isfinite(embedding.grad).all()


def test_one_class_has_no_loss() -> None:
    """No other class: the softmax is 1 whatever the logit."""
    head = make_head(normal(1, 4))
    embedding = normal(2, 4).requires_grad_()
    extra = torch.zeros(2, 1, dtype=torch.int64)
    out = head(embedding, torch.zeros(2, dtype=torch.int64), None, extra)
    assert out.extra_loss.tolist() == [[0.0], [0.0]]
    out.loss.sum().backward()
    assert out.loss.tolist() == [0.0, 0.0]
    assert embedding.grad is not None
    assert embedding.grad.eq(0).all()


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_bf16_autocast_is_close_to_float32(chunk_size: int | None) -> None:
    """bf16 keeps 8 bits of a cosine: up to 0.004 * s = 0.26 on a logit at s = 64."""
    centre, label = normal(50, 64).float(), torch.arange(20)
    embedding = normal(20, 64, seed=1).float() + centre[:20]
    results = []
    for enabled in (False, True):
        head = make_head(centre, chunk_size=chunk_size)
        leaf = embedding.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = head(leaf, label).loss
        assert loss.dtype == torch.float32
        loss.mean().backward()
        assert head.weight.grad is not None
        assert head.weight.grad.dtype == torch.float32
        results.append((loss.detach(), leaf.grad, head.weight.grad))
    (loss, grad, grad_centre), (loss16, grad16, grad_centre16) = results
    assert not torch.equal(loss, loss16)  # the products did run in bf16
    torch.testing.assert_close(loss16, loss, rtol=0, atol=0.52)  # two logits, 0.26 each
    for came, expected in ((grad16, grad), (grad_centre16, grad_centre)):
        assert F.cosine_similarity(came.flatten(), expected.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_a_scaled_loss_over_new_centres_stays_in_float16(chunk_size: int | None) -> None:
    """Centres begin with length 0.1 at D = 64; a scale of 2^13 on the gradient is far below 2^16.

    The largest gradient of a cosine is s * 2^13 / B = 26,000; 1/|W| times that is no float16.
    """
    centre, label = 0.0125 * normal(50, 64).float(), torch.arange(20)
    embedding = normal(20, 64, seed=1).float()
    gradients = []
    for enabled in (False, True):
        head = make_head(centre, chunk_size=chunk_size)
        leaf = embedding.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16, enabled=enabled):
            loss = head(leaf, label).loss.mean()
        (2**13 * loss).backward()
        gradients.append((leaf.grad, head.weight.grad))
    for came, expected in zip(*reversed(gradients), strict=True):
        assert came is not None
        assert expected is not None
        assert 0 < (came - expected).norm() / expected.norm() < 0.01


def test_initial_centres_do_not_depend_on_the_sharding() -> None:
    """Classes 0..8999 cross two blocks of the generator; std 0.01 within 5 sigma."""
    whole = MarginHead(HeadConfig(), 9000, 8, MESH, seed=3).weight.detach()
    for world_size in (2, 3):
        shards = [
            MarginHead(
                HeadConfig(), 9000, 8, Mesh(rank, world_size, torch.device("cpu")), seed=3
            ).weight.detach()
            for rank in range(world_size)
        ]
        assert torch.equal(torch.cat(shards), whole)
    assert not torch.equal(MarginHead(HeadConfig(), 9000, 8, MESH, seed=4).weight, whole)
    assert whole.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * whole.numel()))
    assert whole[:4096].ne(whole[4096:8192]).all()


def test_straight_through_moves_the_embedding_as_if_the_margin_were_constant() -> None:
    """Same value as arcface; gradient = (p - 1) s as on a plain cosine."""
    centre, embedding, label = normal(5, 4), normal(3, 4, seed=1), torch.tensor([0, 1, 2])
    exact, through = (
        make_head(centre, margin=kind, scale=4.0)
        for kind in ("arcface", "arcface_straight_through")
    )
    torch.testing.assert_close(exact(embedding, label).loss, through(embedding, label).loss)
    leaf = embedding.clone().requires_grad_()
    out = through(leaf, label)
    (grad,) = torch.autograd.grad(out.loss.sum(), leaf)
    cosine = F.normalize(leaf) @ F.normalize(centre).T
    logits = 4 * cosine.detach()
    angle = logits.diagonal().div(4).acos() + 0.5
    logits[torch.arange(3), label] = 4 * angle.cos()
    slope = 4 * (logits.softmax(1) - F.one_hot(label, 5))
    (expected,) = torch.autograd.grad((slope * cosine).sum(), leaf)
    torch.testing.assert_close(grad, expected)


def test_label_out_of_range_is_named() -> None:
    head = make_head(normal(5, 4))
    with pytest.raises(DataError, match=r"labels must lie in \[-1, 5\), got 0 to 5"):
        head(normal(2, 4), torch.tensor([0, 5]))


def test_config_refuses_margins_of_another_kind() -> None:
    with pytest.raises(ConfigError, match=r"angular_margin belongs to .*, not to margin=cosface"):
        HeadConfig(angular_margin=0.5)
    assert HeadConfig().base_margin == 0.35
    assert HeadConfig(margin="arcface").base_margin == 0.5
    assert HeadConfig(margin="arcface", angular_margin=0.3).base_margin == 0.3
    assert HeadConfig(margin="combined", angular_margin=0.3).base_margin == 0.0


def test_kept_cosines_in_several_blocks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without chunk_size the loop still runs in blocks; 7 classes in blocks of 3 leave a rest."""
    centre, embedding, label = normal(7, 4), normal(5, 4, seed=1), torch.tensor([0, 3, 6, 6, 2])
    results = []
    for block in (32768, 3):
        monkeypatch.setattr(sharded_softmax, "_CHUNK_SIZE", block)
        head, leaf = make_head(centre), embedding.clone().requires_grad_()
        loss = head(leaf, label).loss
        loss.sum().backward()
        results.append((loss.detach(), leaf.grad, head.weight.grad))
    for one, several in zip(*results, strict=True):
        torch.testing.assert_close(one, several)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_nearest_is_the_sorted_cosine_matrix(chunk_size: int | None) -> None:
    centre, embedding = normal(7, 4), normal(5, 4, seed=1)
    cosine, label = make_head(centre, chunk_size=chunk_size).nearest(embedding, 3)
    expected = (F.normalize(embedding) @ F.normalize(centre).T).sort(dim=1, descending=True)
    torch.testing.assert_close(cosine, expected.values[:, :3])
    assert torch.equal(label, expected.indices[:, :3])


def test_nearest_says_where_there_are_no_more_classes() -> None:
    cosine, label = make_head(normal(2, 4)).nearest(normal(1, 4, seed=1), 3)
    assert label[0, 2] == -1
    assert cosine[0, 2] == -2
    assert sorted(label[0, :2].tolist()) == [0, 1]
