"""Each method inside the training loop: against its formula written out, and over a resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_parts import DIM, NUM_CLASSES, NUM_IMAGES, batches, fit, images, make_trainer, weights
from method_parts import METHODS, make, trusted_batches
from scipy.special import lambertw
from torch import Tensor, nn
from torch.func import functional_call

from facetrain.data.augment import augment, draw
from facetrain.engine.loop import Trainer
from facetrain.engine.method import StepBatch
from facetrain.engine.sample_record import read_samples

SCALE, MARGIN = 8.0, 0.2


def trainer_of(folder: Path, name: str, **options: Any) -> Trainer:
    return make_trainer(folder, method=make(METHODS[name], folder), **options)


def first_batch(trainer: Trainer) -> StepBatch:
    """What the first step sees, with the whole margin; record 2 could not be read."""
    batch = next(batches(0, 6, trainer.mesh))
    image = augment(batch.image, draw(trainer.augment_config, 6, trainer.seed, 0))
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
    for key, values in kept.items():
        assert values.shape[1] == NUM_IMAGES
        np.testing.assert_array_equal(values[-1], expected_kept[key][-1])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_another_path_than_plain_training(tmp_path: Path, name: str) -> None:
    plain, robust = make_trainer(tmp_path / "plain"), trainer_of(tmp_path / "robust", name)
    fit(plain)
    fit(robust)
    assert not torch.equal(plain.head.weight, robust.head.weight)


def test_superloss_is_its_closed_form(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "superloss log C")
    batch = first_batch(trainer)
    losses, probability = given(trainer, batch)
    known = batch.label >= 0
    label = batch.label.clamp_min(0)[:, None]
    plain = -probability.gather(1, label)[:, 0].log().detach()
    tau = np.log(NUM_CLASSES)
    beta = (plain.double().numpy() - tau) / (0.3 * tau / np.log(10))
    sigma = np.exp(-lambertw(0.5 * np.maximum(beta, -2 / np.e + 1e-12)).real)
    expected = torch.where(known, torch.from_numpy(sigma) * losses.gather(1, label)[:, 0], 0.0)
    found, _ = of_method(trainer, batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(
        gradients(trainer, found.sum()), gradients(trainer, expected.sum()), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


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
    image = augment(trusted.image, draw(trainer.augment_config, 6, 4, 0))
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
    norm = nn.BatchNorm2d(3)

    def with_norm(head: Any, backbone: nn.Sequential) -> Any:
        backbone.insert(0, norm)
        backbone.insert(1, nn.Dropout(0.5))
        return make(options, tmp_path)(head, backbone)

    trainer = make_trainer(tmp_path, method=with_norm)
    batch = first_batch(trainer)
    torch.manual_seed(0)
    trainer.backbone(batch.image)
    once, after_once = norm.running_mean.clone(), torch.rand(1)  # type: ignore[union-attr]
    norm.reset_running_stats()
    torch.manual_seed(0)
    of_method(trainer, batch)
    assert torch.equal(norm.running_mean, once)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(1), after_once)
    assert norm.momentum == 0.1


def test_embedding_size_is_the_branch_size(tmp_path: Path) -> None:
    branch = trainer_of(tmp_path, "nal").method.trained
    assert branch is not None
    assert next(branch.parameters()).shape == (1, DIM)
