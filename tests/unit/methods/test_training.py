"""Each method inside the training loop: against its formula written out, and over a resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.engine import DIM, NUM_CLASSES, NUM_IMAGES, batches, fit, images, make_trainer, weights
from helpers.methods import METHODS, NUM_TRUSTED, make, trusted_batches
from scipy.special import lambertw
from torch import Tensor, nn
from torch.func import functional_call

from facetrain.data.batches.augment import augment, draw
from facetrain.data.sample_history import read_samples
from facetrain.engine.loop import Trainer
from facetrain.engine.method import StepBatch
from facetrain.methods.superloss import SuperLossConfig
from facetrain.robust.superloss import confidence, scaled_lambda

SCALE, MARGIN = 8.0, 0.2


def trainer_of(folder: Path, name: str, **options: Any) -> Trainer:
    return make_trainer(folder, method=make(METHODS[name], folder), **options)


def first_batch(trainer: Trainer) -> StepBatch:
    """What the first step sees, with the whole margin; record 2 could not be read."""
    batch = next(batches(0, 6, trainer.mesh))
    image = augment(batch.image, draw(trainer.config.augment, 6, trainer.config.seed, 0))
    label = batch.label.clone()
    label[2] = -1
    return StepBatch(image, label, batch.index, torch.full((6,), MARGIN))


def given(trainer: Trainer, batch: StepBatch) -> tuple[Tensor, Tensor]:
    """Margin losses (B, C) for every class as the target, and probabilities without margin."""
    embedding = trainer.backbone(batch.image)
    cosine = F.normalize(embedding) @ F.normalize(trainer.head.weight).T
    margin = MARGIN * torch.eye(NUM_CLASSES)
    logits = SCALE * (cosine[:, None, :] - margin)  # (B, target, C)
    losses = -logits.log_softmax(2).diagonal(dim1=1, dim2=2)
    return losses, (SCALE * cosine).softmax(1)


def gradients(trainer: Trainer, objective: Tensor) -> list[Tensor]:
    parameters = [*trainer.backbone.parameters(), trainer.head.weight]
    found = torch.autograd.grad(objective, parameters, allow_unused=True)
    return [torch.zeros(()) if grad is None else grad for grad in found]


def of_method(trainer: Trainer, batch: StepBatch, step: int = 0) -> tuple[Tensor, Tensor]:
    trainer.method.start(step)
    trainer.head.begin_step(step)
    trainer.method.begin_step(step, batch)
    embedding = trainer.backbone(batch.image)
    return trainer.method.loss(embedding, slice(0, 6)), embedding


@pytest.mark.parametrize("name", METHODS)
def test_stopped_and_resumed_is_undisturbed(tmp_path: Path, name: str) -> None:
    whole = trainer_of(tmp_path / "whole", name, dropout=0.3)
    fit(whole)
    fit(trainer_of(tmp_path / "parts", name, dropout=0.3, max_steps=4))
    second = trainer_of(tmp_path / "parts", name, dropout=0.3)
    with torch.no_grad():  # the checkpoint must restore everything
        for parameter in second.optimizers._names:
            parameter.add_(1)
    fit(second)
    for weight, expected in zip(weights(second).values(), weights(whole).values(), strict=True):
        assert torch.equal(weight, expected)
    kept, expected_kept = read_samples(tmp_path / "parts"), read_samples(tmp_path / "whole")
    assert kept.keys() == expected_kept.keys()
    for key, (_, values) in kept.items():
        assert values.shape[1] == NUM_IMAGES
        np.testing.assert_array_equal(values[-1], expected_kept[key].values[-1])


@pytest.mark.parametrize("follows", [False, True])
def test_superloss_is_its_closed_form(tmp_path: Path, follows: bool) -> None:
    options = {**METHODS["superloss log C"], "lam_follows_tau": follows}
    trainer = make_trainer(tmp_path, method=make(options, tmp_path))
    batch = first_batch(trainer)
    losses, probability = given(trainer, batch)
    known = batch.label >= 0
    label = batch.label.clamp_min(0)[:, None]
    plain = -probability.gather(1, label)[:, 0].log().detach()
    tau = np.log(NUM_CLASSES)
    lam = 0.3 * tau / np.log(10) if follows else 0.3
    beta = (plain.double().numpy() - tau) / lam
    sigma = np.exp(-lambertw(0.5 * np.maximum(beta, -2 / np.e + 1e-12)).real)
    expected = torch.where(known, torch.from_numpy(sigma) * losses.gather(1, label)[:, 0], 0.0)
    found, _ = of_method(trainer, batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(
        gradients(trainer, found.sum()), gradients(trainer, expected.sum()), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("follows", "expected"), [(False, [1.05, 1.0, 0.91, 0.72]), (True, [2.72, 1.0, 0.40, 0.17])]
)
def test_a_constant_lambda_lets_the_weights_relax(follows: bool, expected: list[float]) -> None:
    """Late in a training: losses of 0, 1, 3 and 10 times a mean of 0.1, at the default lambda."""
    config = SuperLossConfig(name="superloss", lam_follows_tau=follows)
    tau = torch.tensor(0.1)
    lam = scaled_lambda(config.lam, tau) if config.lam_follows_tau else config.lam
    found = confidence(torch.tensor([0.0, 0.1, 0.3, 1.0]), tau, lam)
    assert found.tolist() == pytest.approx(expected, abs=0.01)


def test_superlosss_warm_up_and_dominant_sub_centre(tmp_path: Path) -> None:
    options = {"name": "superloss", "dominant": True, "warmup_epochs": 0.2}
    head = {"scale": SCALE, "cosine_margin": MARGIN, "num_centres": 3}
    trainer = make_trainer(tmp_path, method=make(options, tmp_path), head=head)
    batch = first_batch(trainer)
    of_method(trainer, batch)
    assert trainer.method.per_sample()["weight"].tolist() == [1.0] * 6
    of_method(trainer, batch, step=1)
    with trainer.head.frozen_statistics():
        output = trainer.head(trainer.backbone(batch.image), batch.label, batch.margin)
    assert not torch.equal(output.dominant_cosine, output.target_cosine)
    plain = F.softplus(output.negative_logsumexp - SCALE * output.dominant_cosine)
    tau = plain[batch.label >= 0].mean()  # both passes saw the same losses
    weight = confidence(plain, tau, 1.0)
    found = trainer.method.per_sample()["weight"]
    torch.testing.assert_close(found, weight, rtol=1e-4, atol=1e-5)


def test_the_threshold_leaves_absent_samples_out(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "superloss")
    batch = first_batch(trainer)
    _, probability = given(trainer, batch)
    of_method(trainer, batch)
    present = [0, 1, 3, 4, 5]
    loss = -probability[present, batch.label[present]].log()
    mean = dict(trainer.method.tensors())["mean"]
    assert isinstance(mean, Tensor)
    assert mean.item() == pytest.approx(loss.mean().item(), rel=1e-6)


def test_attention_scales_the_margin_gradient_by_the_gate(tmp_path: Path) -> None:
    """Theorem 1: phi = p / (p - 1 + 1/tau); the attention learns with the probability held."""
    trainer = trainer_of(tmp_path, "nal")
    batch = first_batch(trainer)
    losses, probability = given(trainer, batch)
    label = batch.label.clamp_min(0)[:, None]
    p = probability.gather(1, label)[:, 0].detach()
    branch = trainer.method.trained
    assert branch is not None
    tau = branch(trainer.backbone(batch.image).detach())
    phi = p / (p - 1 + 1 / tau.detach())
    of_attention = -torch.log(1 - tau * (1 - p)) - 2.0 * torch.log(tau)
    known = batch.label >= 0
    expected = torch.where(known, phi * losses.gather(1, label)[:, 0] + of_attention, 0.0)
    found, _ = of_method(trainer, batch, step=2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(
        gradients(trainer, found.sum()), gradients(trainer, expected.sum()), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    branch_grads = torch.autograd.grad(of_method(trainer, batch, 2)[0].sum(), branch.parameters())
    expected_grads = torch.autograd.grad(
        torch.where(known, of_attention, 0.0).sum(), branch.parameters()
    )
    for one, other in zip(branch_grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_warm_up_is_plain_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "nal")
    batch = first_batch(trainer)
    losses, _ = given(trainer, batch)
    expected = losses.gather(1, batch.label.clamp_min(0)[:, None])[:, 0]
    found, _ = of_method(trainer, batch, step=1)  # the warm-up is two steps long
    torch.testing.assert_close(found, torch.where(batch.label >= 0, expected, 0.0))


def test_estimated_targets_are_the_dense_ensemble(tmp_path: Path) -> None:
    """With a slot for every class the sparse memory is q <- 0.5 q + 0.5 p, dense."""
    options = {**METHODS["nal with targets"], "targets": {"count": NUM_CLASSES, "memory": 0.5}}
    trainer = make_trainer(tmp_path, method=make(options, tmp_path))
    batch = first_batch(trainer)
    dense = F.one_hot(images()[1], NUM_CLASSES).float()
    known = batch.label >= 0
    for step in range(3):
        losses, p = (value.detach() for value in given(trainer, batch))
        q = dense[batch.index]
        tau = trainer.method.trained(trainer.backbone(batch.image).detach())  # type: ignore[misc]
        below = tau[:, None] * (p - q) + q
        gate = tau[:, None] * q * p / below
        log = torch.where(q > 0, below, 1.0).log()
        attention = -(q * log).sum(1) - 10.0 * tau.log()
        expected = torch.where(known, (gate * losses).sum(1) + attention, 0.0)
        found, _ = of_method(trainer, batch, step)
        # The memory is float16.
        torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)
        dense[batch.index[known]] = (0.5 * q + 0.5 * p)[known]


def test_targets_move_in_the_last_epoch_of_each_cycle_and_not_before_their_time(
    tmp_path: Path,
) -> None:
    """every_epochs 2 of 5 steps: epochs 1, 3, ... count from 0; a warm-up of 2 leaves 3 and on."""
    targets = {"count": 3, "memory": 0.5, "every_epochs": 2, "warmup_epochs": 2}
    options = {**METHODS["nal with targets"], "targets": targets}
    trainer = make_trainer(tmp_path, method=make(options, tmp_path))
    batch = first_batch(trainer)
    moved = []
    for step in (0, 4, 5, 9, 10, 14, 15, 19, 20):
        before = dict(trainer.method.tensors())["target_probability"].local.clone()  # type: ignore[union-attr]
        of_method(trainer, batch, step)
        after = dict(trainer.method.tensors())["target_probability"].local  # type: ignore[union-attr]
        moved.append(not torch.equal(before, after))
    assert moved == [False] * 6 + [True, True, False]


def test_trusted_images_are_not_trained_on(tmp_path: Path) -> None:
    """Images 0 to 11 are trusted: their losses are 0, the others' are as without them."""
    options = {**METHODS["l2b"], "warmup_epochs": 0, "every": 2, "hold_out": True}
    trainer = make_trainer(tmp_path, method=make(options, tmp_path))
    batch = replace(first_batch(trainer), index=torch.tensor([3, 20, 25, 11, 12, -1]))
    held_out = torch.tensor([True, False, False, True, False, False])
    assert NUM_TRUSTED == 12
    losses, _ = given(trainer, batch)
    plain = losses.gather(1, batch.label.clamp_min(0)[:, None])[:, 0]
    found, _ = of_method(trainer, batch, step=1)  # a step without a look-ahead
    present = (batch.label >= 0) & ~held_out
    torch.testing.assert_close(found, torch.where(present, plain, 0.0))
    found, _ = of_method(trainer, batch, step=0)
    kept = trainer.method.per_sample()
    assert (found[~present] == 0).all()
    assert (kept["alpha"] + kept["beta"])[~present].tolist() == [0.0] * int((~present).sum())
    assert (kept["alpha"] + kept["beta"]).sum().item() == pytest.approx(present.sum().item())


def naive_weights(trainer: Trainer, batch: StepBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 of the supplement: differentiate the trusted loss through one virtual step."""
    parameters = {n: p.detach().requires_grad_() for n, p in trainer.backbone.named_parameters()}
    centres = trainer.head.weight.detach().requires_grad_()
    theta = [*parameters.values(), centres]

    def losses(values: list[Tensor], image: Tensor) -> Tensor:
        named = dict(zip(parameters, values[:-1], strict=True))
        embedding = functional_call(trainer.backbone, named, (image,))
        cosine = F.normalize(embedding) @ F.normalize(values[-1]).T
        logits = SCALE * (cosine[:, None, :] - MARGIN * torch.eye(NUM_CLASSES))
        return -logits.log_softmax(2).diagonal(dim1=1, dim2=2)  # (B, C)

    cosine = F.normalize(trainer.backbone(batch.image)) @ F.normalize(centres).T
    pseudo = cosine.argmax(1)
    known = (batch.label >= 0).double()
    alpha = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    beta = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    everything = losses(theta, batch.image)
    f = everything.gather(1, batch.label.clamp_min(0)[:, None])[:, 0]
    g = everything.gather(1, pseudo[:, None])[:, 0]
    virtual = torch.autograd.grad((known * (alpha * f + beta * g)).sum(), theta, create_graph=True)
    moved = [value - grad for value, grad in zip(theta, virtual, strict=True)]
    trusted = next(trusted_batches(0, trainer.mesh))
    image = augment(trusted.image, draw(trainer.config.augment, 6, 4, 0))
    meta = losses(moved, image).gather(1, trusted.label[:, None]).mean()
    raw_alpha, raw_beta = (-grad for grad in torch.autograd.grad(meta, [alpha, beta]))
    total = raw_alpha.clamp_min(0).sum() + raw_beta.clamp_min(0).sum()
    number = known.sum()
    return raw_alpha.clamp_min(0) / total * number, raw_beta.clamp_min(0) / total * number, pseudo


class ToDouble(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_bootstrap_weights_are_those_of_the_double_backward(tmp_path: Path) -> None:
    options = {**METHODS["l2b"], "warmup_epochs": 0, "distance": 1e-5}

    def in_double(head: Any, backbone: nn.Sequential) -> Any:
        backbone.double().insert(0, ToDouble())
        return make(options, tmp_path)(head.double(), backbone)

    trainer = make_trainer(tmp_path, method=in_double)
    batch = first_batch(trainer)
    before = {n: v.clone() for n, v in trainer.backbone.state_dict().items()}
    alpha, beta, pseudo = naive_weights(trainer, batch)
    found, _ = of_method(trainer, batch)
    kept = trainer.method.per_sample()
    assert torch.equal(kept["estimated_label"], pseudo)
    # A central difference over a short distance, in float64.
    torch.testing.assert_close(kept["alpha"], alpha, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept["beta"], beta, rtol=1e-4, atol=1e-5)
    assert kept["alpha"][2] == kept["beta"][2] == 0
    losses, _ = given(trainer, batch)
    f = losses.gather(1, batch.label.clamp_min(0)[:, None])[:, 0]
    g = losses.gather(1, pseudo[:, None])[:, 0]
    expected = torch.where(batch.label >= 0, kept["alpha"] * f + kept["beta"] * g, 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, value in trainer.backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_looking_ahead_leaves_running_statistics_and_random_numbers_alone(tmp_path: Path) -> None:
    options = {**METHODS["l2b"], "warmup_epochs": 0}
    norm, last = nn.BatchNorm2d(3), nn.BatchNorm1d(DIM)

    def with_norm(head: Any, backbone: nn.Sequential) -> Any:
        backbone.insert(0, norm)
        backbone.insert(1, nn.Dropout(0.5))
        backbone.append(last)  # as every network of ours ends
        return make(options, tmp_path)(head, backbone)

    trainer = make_trainer(tmp_path, method=with_norm)
    batch = first_batch(trainer)
    torch.manual_seed(0)
    trainer.backbone(batch.image)
    once, after_once = norm.running_mean.clone(), torch.rand(1)  # type: ignore[union-attr]
    last_once = last.running_mean.clone()  # type: ignore[union-attr]
    norm.reset_running_stats()
    last.reset_running_stats()
    torch.manual_seed(0)
    of_method(trainer, batch)
    assert torch.equal(norm.running_mean, once)  # type: ignore[arg-type]
    assert torch.equal(last.running_mean, last_once)  # type: ignore[arg-type]
    assert last.num_batches_tracked == 1
    assert torch.equal(torch.rand(1), after_once)
    assert norm.momentum == 0.1


def test_embedding_size_is_the_branch_size(tmp_path: Path) -> None:
    branch = trainer_of(tmp_path, "nal").method.trained
    assert branch is not None
    assert next(branch.parameters()).shape == (1, DIM)
