"""The sharded head against the dense single-process formula, at world sizes 1, 2 and 3."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.dense_head import dense_loss
from helpers.ranks import Ranks
from torch import nn

from facetrain.dist.mesh import Mesh
from facetrain.dist.parallel import wrap_ddp
from facetrain.dist.shard import shard_range
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.heads.row_optimizer import RowSGD

SIZE, BATCH, SCALE = 8, 12, 16.0


def problem(num_classes: int) -> dict[str, torch.Tensor]:
    """A whole batch: 12 samples divide by 1, 2 and 3 ranks."""
    generator = torch.Generator().manual_seed(num_classes)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(num_classes, shape, generator=generator)

    label, extra = integers(BATCH), integers(BATCH, 2)
    label[3] = -1
    extra[0, 0] = label[0]  # the pseudo-label agrees
    extra[1, 1] = extra[1, 0]  # one pseudo-label twice
    extra[2, 0] = -1
    return {
        "embedding": normal(BATCH, SIZE),
        "centre": normal(num_classes, SIZE),
        "label": label,
        "margin": 0.1 + 0.4 * normal(BATCH).sigmoid(),
        "weight": normal(BATCH).sigmoid(),
        "extra": extra,
        "extra_weight": normal(BATCH, 2).sigmoid(),
    }


def dense(data: dict[str, torch.Tensor], kind: str, with_extra: bool) -> dict[str, torch.Tensor]:
    """Values and gradients of the mean loss, from the plain formula."""
    embedding, centre, margin = (
        data[name].clone().requires_grad_() for name in ("embedding", "centre", "margin")
    )
    targets = [(data["label"], data["weight"])]
    if with_extra:
        targets += list(zip(data["extra"].T, data["extra_weight"].T, strict=True))
    loss = torch.zeros(BATCH, dtype=torch.float64)
    for label, factor in targets:
        one = dense_loss(embedding, centre, label.clamp_min(0), margin, SCALE, kind)
        loss = loss + torch.where((label >= 0) & (data["label"] >= 0), factor * one, 0.0)
    loss.mean().backward()
    leaves = {"embedding": embedding, "centre": centre, "margin": margin}
    cosine = (F.normalize(embedding) @ F.normalize(centre).T).detach()
    target = torch.cat([data["label"][:, None], data["extra"]], 1)[:, : 1 + 2 * with_extra]
    known = (target >= 0) & (target[:, :1] >= 0)
    plain = (SCALE * cosine).softmax(1).gather(1, target.clamp_min(0))
    return {
        "loss": loss.detach(),
        "plain_probability": torch.where(known, plain, 0.0),
        "nearest": cosine.topk(2).values,
        "nearest_label": cosine.topk(2).indices,
    } | {f"grad_{k}": v.grad for k, v in leaves.items()}


def sharded(mesh: Mesh, num_classes: int, config: dict[str, Any], with_extra: bool) -> Any:
    """The same from this rank's part: its samples and its classes."""
    data = problem(num_classes)
    start, stop = shard_range(BATCH, mesh.rank, mesh.world_size)
    embedding, margin = (
        data[name][start:stop].clone().requires_grad_() for name in ("embedding", "margin")
    )
    label, extra = data["label"][start:stop].clone(), data["extra"][start:stop].clone()
    given = [tensor.clone() for tensor in (embedding, label, margin, extra)]
    head = MarginHead(HeadConfig(scale=SCALE, **config), num_classes, SIZE, mesh, 0).double()
    with torch.no_grad():
        head.weight.copy_(data["centre"][head.start : head.stop])
    out = head(embedding, label, margin, extra if with_extra else None)
    loss = data["weight"][start:stop] * out.loss
    if with_extra:
        loss = loss + (data["extra_weight"][start:stop] * out.extra_loss).sum(1)
    (loss.sum() / BATCH).backward()
    cosine, nearest = head.nearest(embedding, 2)
    for before, after in zip(given, (embedding, label, margin, extra), strict=True):
        assert torch.equal(before, after)  # the caller's tensors are left alone
    assert embedding.grad is not None
    assert head.weight.grad is not None
    return {
        "loss": loss.detach().numpy(),
        "plain_probability": out.plain_probability.numpy(),
        "nearest": cosine.numpy(),
        "nearest_label": nearest.numpy(),
        "grad_embedding": embedding.grad.numpy(),
        "grad_centre": head.weight.grad.numpy(),
        "grad_margin": margin.grad.numpy(),
    }


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 64])
@pytest.mark.parametrize("num_classes", [2, 7, 31])
def test_sharded_head_equals_dense_formula(
    ranks: Ranks, num_classes: int, chunk_size: int | None
) -> None:
    """2 classes on 3 ranks leave a rank empty; 7 and 31 divide by nothing."""
    for kind in ("cosface", "arcface"):
        for with_extra in (False, True):
            config = {"margin": kind, "chunk_size": chunk_size}
            parts = ranks.run(sharded, num_classes, config, with_extra)
            for name, expected in dense(problem(num_classes), kind, with_extra).items():
                came = torch.cat([torch.from_numpy(part[name]) for part in parts])
                # float64: only the order of sums differs.
                torch.testing.assert_close(came, expected, rtol=1e-9, atol=1e-12)


def train(mesh: Mesh, config: dict[str, Any], steps: int) -> Any:
    """A linear backbone and the head after some steps on a fixed stream of batches."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(mesh.rank)  # DDP must start all ranks from rank 0's weights
    linear = nn.Linear(6, SIZE).double()
    if mesh.rank == 0:
        with torch.no_grad():
            linear.weight.copy_(torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(9)))
            linear.bias.zero_()
    backbone = wrap_ddp(linear, mesh)
    head = MarginHead(HeadConfig(scale=SCALE, **config), 11, SIZE, mesh, 3).double()
    optimizer = torch.optim.SGD(backbone.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    head_optimizer = RowSGD(head.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    start, stop = shard_range(BATCH, mesh.rank, mesh.world_size)
    losses = []
    for step in range(steps):
        image = torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)
        label = torch.randint(11, (BATCH,), generator=generator)
        head.begin_step(step)
        loss = head(backbone(image[start:stop]), label[start:stop]).loss
        optimizer.zero_grad()
        head_optimizer.zero_grad()
        (loss.sum() / BATCH).backward()
        optimizer.step()
        head_optimizer.step()
        losses += [loss.detach().sum().item()]
    return losses, linear.weight.detach().numpy(), head.weight.detach().numpy()


@pytest.mark.parametrize("config", [{}, {"chunk_size": 2, "margin": "arcface"}], ids=str)
def test_n_processes_equal_one_after_steps(ranks: Ranks, config: dict[str, Any]) -> None:
    """Losses, backbone and centres after 6 steps, from the same initial centres."""
    parts = ranks.run(train, config, 6)
    losses, backbone, centres = train(Mesh.single(), config, 6)
    assert losses[0] != losses[-1]
    came = torch.tensor([part[0] for part in parts]).sum(0)
    torch.testing.assert_close(came, torch.tensor(losses))  # float32 tolerance on a float64 sum
    for part in parts:
        torch.testing.assert_close(part[1], backbone, rtol=1e-9, atol=1e-12)
    whole = torch.cat([torch.from_numpy(part[2]) for part in parts])
    torch.testing.assert_close(whole, torch.from_numpy(centres), rtol=1e-9, atol=1e-12)


def sampled_problem() -> dict[str, torch.Tensor]:
    """61 classes of which only the first few are positives, all on the first rank."""
    data = problem(61)
    return data | {"label": data["label"].clamp_min(0) % 4}


def sampled_step(mesh: Mesh) -> Any:
    """One step at sample rate 0.25: losses, and the gradient's rows and values."""
    data = sampled_problem()
    start, stop = shard_range(BATCH, mesh.rank, mesh.world_size)
    config = HeadConfig(scale=SCALE, sample_rate=0.25, chunk_size=5)
    head = MarginHead(config, 61, SIZE, mesh, 0).double()
    with torch.no_grad():
        head.weight.copy_(data["centre"][head.start : head.stop])
    head.begin_step(4)
    embedding = data["embedding"][start:stop].clone().requires_grad_()
    loss = head(embedding, data["label"][start:stop]).loss
    (loss.sum() / BATCH).backward()
    grad = head.weight.grad
    assert embedding.grad is not None
    assert grad is not None
    rows = grad.coalesce().indices()[0] + head.start
    values = grad.coalesce().values()
    return loss.detach().numpy(), embedding.grad.numpy(), rows.numpy(), values.numpy()


def test_sampled_head_equals_dense_formula_on_its_rows(ranks: Ranks) -> None:
    """Partial FC is the dense softmax over the rows that were drawn, all positives among them."""
    data = sampled_problem()
    parts = ranks.run(sampled_step)
    loss, grad_embedding, rows, values = (
        torch.cat([torch.from_numpy(part[i]) for part in parts]) for i in range(4)
    )
    assert 4 <= len(rows) < 61
    assert set(data["label"].tolist()) <= set(rows.tolist())
    embedding = data["embedding"].clone().requires_grad_()
    centre = data["centre"][rows].clone().requires_grad_()
    margin = torch.full((BATCH,), 0.35, dtype=torch.float64)
    position = torch.searchsorted(rows, data["label"])
    expected = dense_loss(embedding, centre, position, margin, SCALE)
    expected.mean().backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grad_embedding, embedding.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(values, centre.grad, rtol=1e-9, atol=1e-12)
