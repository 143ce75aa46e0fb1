"""Sub-centres, the inter-class filter and AdaFace, sharded, against the papers' dense formulas."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.engine import fit, gathered_weights, make_trainer
from helpers.ranks import Ranks

from facetrain.dist.collectives import all_gather_no_grad
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import HeadOutput, MarginHead
from facetrain.heads.sub_centres import drop_beyond

SIZE, BATCH, SCALE = 8, 12, 16.0
KINDS: dict[str, dict[str, Any]] = {
    "sub-centres": {"num_centres": 3, "cosine_margin": 0.2},
    "sub-centre arcface": {"num_centres": 2, "margin": "arcface", "angular_margin": 0.3},
    "filter": {"filter_above": 0.15, "cosine_margin": 0.2},
    "filter and sub-centres": {"filter_above": 0.3, "num_centres": 3},
    "adaface": {"margin": "adaface", "norm_memory": 0.5},
    "adaface with sub-centres": {"margin": "adaface", "num_centres": 2},
}


def problem(num_classes: int, num_centres: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    label = torch.randint(num_classes, (BATCH,), generator=generator)
    extra = torch.randint(num_classes, (BATCH, 1), generator=generator)
    label[3], extra[0, 0], extra[1, 0] = -1, label[0], -1
    shape = (num_classes, num_centres, SIZE) if num_centres > 1 else (num_classes, SIZE)
    return {
        "embedding": normal(BATCH, SIZE) * 3,
        "centre": normal(*shape),
        "label": label,
        "extra": extra,
        "weight": normal(BATCH).sigmoid(),
    }


def with_margin(
    cosine: torch.Tensor, embedding: torch.Tensor, present: torch.Tensor, config: HeadConfig
) -> torch.Tensor:
    """Every cosine as if it were the target's, (B, C)."""
    if config.margin == "cosface":
        return cosine - config.base_margin
    if config.margin == "arcface":
        beyond = cosine - config.base_margin * torch.sin(torch.tensor(config.base_margin))
        theta = torch.acos(cosine) + config.base_margin
        return torch.where(theta > torch.pi, beyond, torch.cos(theta))
    # AdaFace's published code: running statistics, then both margins by the scaled norm.
    norm = embedding.detach().norm(dim=1).clip(0.001, 100)
    keep = config.value_of("norm_memory")
    mean = keep * 20 + (1 - keep) * norm[present].mean()
    deviation = keep * 100 + (1 - keep) * norm[present].std()
    scaler = ((norm - mean) / (deviation + 1e-3) * 0.333).clip(-1, 1)[:, None]
    theta = cosine.clip(-1 + 1e-3, 1 - 1e-3).acos() - 0.4 * scaler
    return theta.clip(1e-3, torch.pi - 1e-3).cos() - (0.4 + 0.4 * scaler)


def dense(
    data: dict[str, torch.Tensor], config: HeadConfig, rows: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Loss and gradients from the plain formulas over all classes, or `rows` of them."""
    embedding, centre = (data[n].clone().requires_grad_() for n in ("embedding", "centre"))
    taken = centre if rows is None else centre[rows]
    taken = taken if taken.ndim == 3 else taken[:, None]
    unit = F.normalize(embedding)
    each = torch.einsum("bd,ckd->bck", unit, F.normalize(taken, dim=2))
    cosine = each.max(2).values  # (B, C)
    present = data["label"] >= 0
    target_logit = with_margin(cosine, embedding, present, config)
    negatives = cosine
    if config.filter_above is not None:
        negatives = torch.where(cosine > config.filter_above, 0.0, cosine)
    total = torch.zeros(BATCH, dtype=torch.float64)
    for one, factor in ((data["label"], 1.0), (data["extra"][:, 0], 0.7)):
        known = present & (one >= 0)
        place = one.clamp_min(0)
        if rows is not None:
            place = torch.searchsorted(rows, place)
        is_target = F.one_hot(place, cosine.shape[1]).bool()
        logits = torch.where(is_target, target_logit, negatives)
        loss = F.cross_entropy(SCALE * logits, place, reduction="none")
        total = total + torch.where(known, factor * data["weight"] * loss, 0.0)
    total.mean().backward()
    assert embedding.grad is not None
    assert centre.grad is not None
    return {"loss": total.detach(), "embedding": embedding.grad, "centre": centre.grad}


def step(mesh: Mesh, num_classes: int, config: HeadConfig) -> Any:
    """The same from this rank's samples and classes; also the rows that took part."""
    data = problem(num_classes, config.num_centres)
    start, stop = shard_range(BATCH, mesh.rank, mesh.world_size)
    head = MarginHead(config, num_classes, SIZE, mesh, 0).double()
    with torch.no_grad():
        head.weight.copy_(data["centre"][head.start : head.stop])
    head.begin_step(1)
    embedding = data["embedding"][start:stop].clone().requires_grad_()
    out: HeadOutput = head(embedding, data["label"][start:stop], None, data["extra"][start:stop])
    loss = data["weight"][start:stop] * (out.loss + 0.7 * out.extra_loss[:, 0])
    (loss.sum() / BATCH).backward()
    grad = head.weight.grad
    assert embedding.grad is not None
    assert grad is not None
    rows = grad.coalesce().indices()[0] if grad.is_sparse else torch.arange(len(grad))
    return {
        "loss": loss.detach().numpy(),
        "embedding": embedding.grad.numpy(),
        "centre": grad.to_dense().numpy(),
        "rows": (rows + head.start).numpy(),
        "nearest": head.nearest(embedding, 2)[0].numpy(),
    }


@pytest.mark.parametrize("name", KINDS)
def test_rival_heads_equal_the_dense_formulas(ranks: Ranks, name: str) -> None:
    """Two classes leave a third rank empty; 7 divide by nothing; chunks, whole, and sampled."""
    for num_classes in (2, 7):
        for more in ({}, {"chunk_size": 3}, {"sample_rate": 0.5}):
            config = HeadConfig.model_validate({"scale": SCALE, **KINDS[name], **more})
            parts = ranks.run(step, num_classes, config)
            came = {k: torch.cat([torch.from_numpy(part[k]) for part in parts]) for k in parts[0]}
            rows = came["rows"] if config.sample_rate < 1 else None
            data = problem(num_classes, config.num_centres)
            for key, expected in dense(data, config, rows).items():
                torch.testing.assert_close(came[key], expected, rtol=1e-9, atol=1e-12)
            centre = F.normalize(data["centre"], dim=-1).reshape(-1, SIZE)
            cosine = (F.normalize(data["embedding"]) @ centre.T).unflatten(1, (num_classes, -1))
            nearest = cosine.amax(2).topk(2).values
            torch.testing.assert_close(came["nearest"], nearest, rtol=1e-9, atol=1e-12)


def test_the_filter_of_the_test_filters() -> None:
    """Some negatives lie above the limits, some below: both branches are compared."""
    data = problem(7, 1)
    cosine = F.normalize(data["embedding"]) @ F.normalize(data["centre"]).T
    share = (cosine > 0.15).double().mean().item()
    assert 0.1 < share < 0.9


def votes(mesh: Mesh, passes: int) -> Any:
    """Cosines to the dominant sub-centres after `passes` of the same images, and the votes."""
    data = problem(7, 3)
    start, stop = shard_range(BATCH, mesh.rank, mesh.world_size)
    head = MarginHead(HeadConfig(num_centres=3), 7, SIZE, mesh, 0).double()
    with torch.no_grad():
        head.weight.copy_(data["centre"][head.start : head.stop])
    embedding, label = data["embedding"][start:stop], data["label"][start:stop]
    for _ in range(passes):
        cosine = head(embedding, label).dominant_cosine
    with head.frozen_statistics():
        head(-embedding, label)  # only looks
    assert head.votes is not None
    padded = torch.zeros(7, 3, dtype=torch.float64)
    padded[head.start : head.stop] = head.votes.count
    count = all_gather_no_grad(padded[None], mesh).sum(0)
    return cosine.numpy(), count.numpy()


def test_the_vote_of_a_training_is_the_vote_over_all_images(ranks: Ranks) -> None:
    data = problem(7, 3)
    present = data["label"] >= 0
    label, embedding = data["label"][present], data["embedding"][present]
    whole = drop_beyond(embedding, label, data["centre"])
    parts = ranks.run(votes, 1)
    cosine = torch.cat([torch.from_numpy(part[0]) for part in parts])
    torch.testing.assert_close(cosine[present], whole.cosine)
    assert cosine[~present].tolist() == [0.0]
    # 11 images voted once each; a second pass of n images of a class leaves 0.98^n of the first.
    torch.testing.assert_close(parts[0][1].sum(), 11.0)
    twice = torch.from_numpy(ranks.run(votes, 2)[0][1]).sum(1)
    number = torch.bincount(label, minlength=7).double()
    torch.testing.assert_close(twice, number * 0.98**number + number)


def train(mesh: Mesh, folder: str, head: dict[str, Any], options: dict[str, Any]) -> Any:
    """Weights and buffers of the head after a training."""
    trainer = make_trainer(Path(folder), mesh, head=head, batch_size=7, **options)
    fit(trainer)
    norms = trainer.head.norms
    statistics = [] if norms is None else [norms.mean.item(), norms.deviation.item()]
    return gathered_weights(trainer), statistics


@pytest.mark.parametrize(
    "head", [{"num_centres": 3}, {"margin": "adaface", "norm_memory": 0.8, "filter_above": 0.5}]
)
def test_a_run_resumes_at_another_world_size(
    ranks: Ranks, tmp_path: Path, head: dict[str, Any]
) -> None:
    head = {"scale": 8.0, "cosine_margin": 0.2, **head}
    expected, statistics = train(Mesh.single(), str(tmp_path / "one"), head, {})
    two = Ranks(2)
    two.run(train, str(tmp_path / "moved"), head, {"max_steps": 4})
    two.close()
    for found, of_norms in ranks.run(train, str(tmp_path / "moved"), head, {}):
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)
        assert of_norms == pytest.approx(statistics, rel=1e-4)


def norms(mesh: Mesh) -> Any:
    """Running statistics after a batch of norms 1 to 12 of which that of sample 3 is padding."""
    start, stop = shard_range(BATCH, mesh.rank, mesh.world_size)
    config = HeadConfig.model_validate({"margin": "adaface", "norm_memory": 0.75})
    head = MarginHead(config, 7, SIZE, mesh, 0).double()
    embedding = F.normalize(problem(7, 1)["embedding"]) * torch.arange(1.0, 13)[:, None]
    label = problem(7, 1)["label"][start:stop]
    assert head.norms is not None
    with head.frozen_statistics():
        head(embedding[start:stop], label)
    before = head.norms.mean.item(), head.norms.deviation.item()
    head(embedding[start:stop], label)
    return *before, head.norms.mean.item(), head.norms.deviation.item()


def test_norm_statistics_are_those_of_all_ranks_and_a_look_leaves_them(ranks: Ranks) -> None:
    # 1..12 without 4: mean 74 / 11; sum of squares 634; variance (634 - 74^2 / 11) / 10
    mean, deviation = 74 / 11, ((634 - 74**2 / 11) / 10) ** 0.5
    expected = (20.0, 100.0, 0.75 * 20 + 0.25 * mean, 0.75 * 100 + 0.25 * deviation)
    for found in ranks.run(norms):
        assert found == pytest.approx(expected, rel=1e-12)
