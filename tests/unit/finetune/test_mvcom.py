"""MvCoM's residual against the paper's three steps, differentiated twice."""

import pytest
import torch
import torch.nn.functional as F
from helpers.mvcom import (
    LEVELS,
    NUM_CLASSES,
    NUM_IMAGES,
    RATE,
    SCALE,
    TAU,
    backbone,
    class_margin,
    head,
    heads,
    meta_batch,
    method,
    step_batch,
    train_level,
)
from torch import Tensor, nn
from torch.func import functional_call

from facetrain.dist.mesh import Mesh
from facetrain.engine.optim import OptimizerConfig, Optimizers
from facetrain.finetune.finetune import signs
from facetrain.finetune.settings import ResidualConfig

MESH = Mesh.single()


def cosface(centre: Tensor, embedding: Tensor, label: Tensor, margin: Tensor) -> Tensor:
    """The loss as the paper writes it, in operations that can be differentiated twice."""
    cosine = F.normalize(embedding, dim=1) @ F.normalize(centre, dim=1).T
    shift = F.one_hot(label, NUM_CLASSES) * margin[:, None]
    return F.cross_entropy(SCALE * (cosine - shift), label, reduction="none")


def variation_loss(embedding: Tensor, level: Tensor) -> Tensor:
    fitted = heads()
    x = F.normalize(embedding, dim=1) * embedding.shape[1] ** 0.5
    logits = x @ fitted.weight.T + fitted.bias
    parts = zip(logits.split(LEVELS, dim=1), level.T, strict=True)
    return sum(
        (F.cross_entropy(z, y, ignore_index=-1, reduction="sum") for z, y in parts),
        start=torch.zeros((), dtype=torch.float64),
    )


def twice_differentiated(module: nn.Module, *, pseudo_update: bool) -> Tensor:
    """-eta d(sum L_var)/dr at r = 0: Eqs. 12 and 13 by autograd, on the whole backbone."""
    module.eval()
    batch, meta = step_batch(MESH), meta_batch(MESH)
    centre = head(MESH).weight.detach()
    theta = dict(module.named_parameters())
    residual = torch.zeros(NUM_IMAGES, dtype=torch.float64, requires_grad=True)
    embedding = functional_call(module, theta, (batch.image,))
    margin = class_margin()[batch.label] + residual
    loss = cosface(centre, embedding, batch.label, margin).sum() / NUM_IMAGES
    gradient = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    if pseudo_update:
        ahead = {n: p - RATE * g for (n, p), g in zip(theta.items(), gradient, strict=True)}
        var = variation_loss(functional_call(module, ahead, (meta.image,)), meta.level)
        return -torch.autograd.grad(var, residual)[0]
    # Before the virtual update: the slope there, along the step that the residual would add.
    var = variation_loss(functional_call(module, theta, (meta.image,)), meta.level)
    slope = torch.autograd.grad(var, list(theta.values()))
    along = sum((v * g).sum() for v, g in zip(slope, gradient, strict=True))
    assert isinstance(along, Tensor)
    return RATE * torch.autograd.grad(along, residual)[0]


@pytest.mark.parametrize("pseudo_update", [True, False])
@pytest.mark.parametrize("pieces", [1, 4])
def test_residual_is_the_second_derivative(*, pseudo_update: bool, pieces: int) -> None:
    module = backbone()
    expected = twice_differentiated(module, pseudo_update=pseudo_update)
    learned = method(MESH, module, pseudo_update=pseudo_update, pieces=pieces)
    learned.begin_step(0, step_batch(MESH))
    # The oracle differentiates the mean of the losses, Eq. 12 their sum.
    found = learned.residual / (TAU * NUM_IMAGES)
    assert float(expected.abs().max()) > 1e-3
    # Rounding over the central difference's distance of 1e-6; longer ones step over kinks of ReLUs.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_virtual_update_matters() -> None:
    """The two forms above are not the same numbers."""
    forms = [twice_differentiated(backbone(), pseudo_update=p) for p in (True, False)]
    assert float((forms[0] - forms[1]).abs().max() / forms[1].abs().max()) > 0.02


def test_margin_scales_the_gradient() -> None:
    """d(grad L_j)/dr_j = s p_j grad L_j, over every weight of the backbone, in float64."""
    module = backbone().eval()
    batch, centre = step_batch(MESH), head(MESH).weight.detach()
    theta = dict(module.named_parameters())
    margin = class_margin()[batch.label].requires_grad_()
    embedding = functional_call(module, theta, (batch.image,))
    loss = cosface(centre, embedding, batch.label, margin)
    for j in (0, NUM_IMAGES - 1):
        gradient = torch.autograd.grad(
            loss[j], list(theta.values()), create_graph=True, retain_graph=True
        )
        flat = torch.cat([g.flatten() for g in gradient])
        picked = torch.arange(0, len(flat), len(flat) // 40)
        slope = torch.stack(
            [torch.autograd.grad(flat[i], margin, retain_graph=True)[0][j] for i in picked]
        )
        probability = torch.exp(-loss[j])
        torch.testing.assert_close(
            slope, SCALE * probability * flat[picked], rtol=1e-10, atol=1e-14
        )


def test_virtual_passes_leave_the_model_alone() -> None:
    module = backbone().train()
    before = {n: v.clone() for n, v in module.state_dict().items()}
    learned = method(MESH, module)
    learned.begin_step(0, step_batch(MESH))
    assert module.training
    assert all(p.grad is None for p in module.parameters())
    assert learned.head.weight.grad is None
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_real_update_uses_the_learned_margins() -> None:
    """Eq. 14: the gradient after begin_step is that of CosFace with m + r."""
    module = backbone().train()
    learned = method(MESH, module, normalisation="max", size=0.1)
    batch = step_batch(MESH)
    learned.begin_step(0, batch)
    assert float(learned.residual.abs().max()) == pytest.approx(0.1)
    embedding = functional_call(module, {}, (batch.image,))
    expected = cosface(
        learned.head.weight, embedding, batch.label, class_margin()[batch.label] + learned.residual
    )
    torch.testing.assert_close(learned.loss(embedding, slice(0, NUM_IMAGES)), expected)


def test_a_factor_to_forget_turns_its_part_around() -> None:
    """The residual is linear in the tasks' losses."""
    signs = [[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]]
    found = []
    for sign in signs:
        learned = method(MESH, sign=torch.tensor(sign, dtype=torch.float64), pseudo_update=False)
        learned.begin_step(0, step_batch(MESH))
        found.append(learned.residual)
    torch.testing.assert_close(found[0] + found[1], 2 * found[2], rtol=1e-5, atol=1e-10)
    assert float((found[0] - found[1]).abs().max()) > 1e-6


def test_what_recognition_must_be_blind_to_is_forgotten_by_default() -> None:
    """Pose, occlusion and blur where the set has them, nothing else, and nothing if so asked."""
    factors = ("group", "blur", "age")
    assert signs(ResidualConfig(), factors).tolist() == [1, -1, 1]
    assert signs(ResidualConfig(forget=()), factors).tolist() == [1, 1, 1]
    assert signs(ResidualConfig(forget=("age",)), factors).tolist() == [1, 1, -1]


def test_total_margin_is_clipped() -> None:
    learned = method(MESH, normalisation="max", size=100.0)
    learned.max_margin = 0.6  # most samples are beyond one end or the other
    learned.begin_step(0, step_batch(MESH))
    assert float(learned.margin.max()) == 0.6
    assert float(learned.margin.min()) == 0.0
    prior = class_margin()[step_batch(MESH).label]
    torch.testing.assert_close(learned.per_sample()["residual"], learned.margin - prior)


def test_deviation_gives_the_residuals_that_root_mean_square() -> None:
    learned = method(MESH, normalisation="deviation", size=0.01)
    learned.begin_step(0, step_batch(MESH))
    assert float(learned.residual.square().mean().sqrt()) == pytest.approx(0.01)


def test_a_residual_of_a_level_is_the_mean_change_of_its_images() -> None:
    of_images = method(MESH, normalisation="max", size=0.01)
    of_levels = method(MESH, normalisation="max", size=0.01, of="level", level_rate=0.5)
    for one in (of_images, of_levels):
        one.begin_step(0, step_batch(MESH))
    change, level = of_images.residual, train_level()
    table = torch.zeros(2, 3, dtype=torch.float64)
    for factor in range(2):
        for number in range(3):
            of_level = change[level[:, factor] == number]
            if len(of_level):
                table[factor, number] = 0.5 * of_level.mean()
    torch.testing.assert_close(of_levels.tensors()["residual_of_level"], table)
    assert (level == -1).any()
    expected = torch.zeros(6, dtype=torch.float64)
    for image, levels in enumerate(level.tolist()):
        expected[image] = sum(table[k, one] for k, one in enumerate(levels) if one >= 0)
    torch.testing.assert_close(of_levels.residual, expected)
    # The next step goes on from there.
    of_levels.begin_step(1, step_batch(MESH))
    again = of_levels.tensors()["residual_of_level"]
    assert isinstance(again, torch.Tensor)
    assert float((again - table).abs().max()) > 1e-4


def test_residuals_persist_only_when_asked() -> None:
    kept = method(MESH, normalisation="max", size=0.01, persist=True)
    fresh = method(MESH, normalisation="max", size=0.01)
    for one in (kept, fresh):
        one.begin_step(0, step_batch(MESH))
    first = kept.residual.clone()
    torch.testing.assert_close(first, fresh.residual)
    torch.testing.assert_close(kept.tensors()["residual_of_image"], first)
    for one in (kept, fresh):
        one.begin_step(1, step_batch(MESH))
    torch.testing.assert_close(fresh.residual, first)
    # Nothing was updated in between, so about the same is added again.
    assert float((kept.residual - 2 * first).abs().max()) < 2e-3


def test_heads_learn_along_and_leave_the_backbone_alone() -> None:
    module = backbone()
    learned = method(MESH, module, head_learning_rate=0.05)
    meta = meta_batch(MESH)

    def loss() -> float:
        with torch.no_grad():
            return float(learned.heads(module.eval()(meta.image), meta.level).sum())

    before, weights = loss(), [p.detach().clone() for p in module.parameters()]
    for step in range(5):
        learned.begin_step(step, step_batch(MESH))
    assert loss() < before
    for old, new in zip(weights, module.parameters(), strict=True):
        assert torch.equal(old, new)


def test_heads_are_no_part_of_the_backbones_optimiser() -> None:
    """What moves the backbone is the identity loss alone."""
    module = backbone()
    learned = method(MESH, module)
    assert learned.trained is None
    optimizers = Optimizers(OptimizerConfig(), module, learned.head)
    assert not [n for n in optimizers.state_names() if "heads" in n]
