"""The tools for the robust methods: planted noise, and the training steps."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facetrain.engine.method import StepBatch
from facetrain.robust.nal import noise_attention_loss
from facetrain.robust.superloss import confidence
from tools.benchmarks.robust import images, networks, runs, tasks, training
from tools.benchmarks.robust import run as bench_robust


@pytest.fixture
def pool() -> Any:
    """300 samples of five classes, of which a sixth are for the test."""
    generator = np.random.default_rng(0)
    label = np.arange(300) % 5
    x = (np.eye(5)[label] + 0.1 * generator.normal(size=(300, 5))).astype(np.float32)
    return tasks.Pool(x, label, np.arange(300) % 6 == 0, {0: 1, 3: 4})


def test_each_kind_of_noise_draws_what_it_says(pool: Any) -> None:
    label = np.arange(10_000) % 5

    def noisy(kind: str, rate: float) -> np.ndarray:
        generator = np.random.default_rng(1)
        return np.asarray(tasks.noisy_labels(label, kind, rate, pool, generator))

    symmetric = noisy("symmetric", 0.4)
    wrong = symmetric != label
    assert wrong.sum() == 4000
    count = np.bincount((symmetric - label)[wrong] % 5, minlength=5)
    assert count[0] == 0
    assert (np.abs(count[1:] - 1000) < 5 * math.sqrt(1000)).all()  # five standard deviations
    # A fifth of the labels that are drawn anew are the true ones.
    anything = noisy("any", 0.4)
    assert abs((anything != label).sum() - 3200) < 5 * math.sqrt(4000 * 0.16)
    asymmetric = noisy("asymmetric", 0.4)
    moved = asymmetric != label
    assert set(label[moved]) == {0, 3}
    assert (asymmetric[moved] == label[moved] + 1).all()
    # Noise of 20 % is part of that of 40 %.
    less = noisy("symmetric", 0.2)
    assert (less[less != label] == symmetric[less != label]).all()


def test_a_task_keeps_its_parts_apart(pool: Any) -> None:
    def made(rate: float, seed: int) -> Any:
        kinds = {"num_trusted": 3, "validation": 0.2}
        return tasks.make_task(pool, "symmetric", rate, seed, **kinds)

    task, clean, other = made(0.4, 0), made(0.0, 0), made(0.4, 1)
    parts = [task.x, task.validation_x, task.test_x, task.trusted_x]
    rows = torch.cat(parts)
    assert len(rows) == 300
    assert len(rows.unique(dim=0)) == 300  # none is in two parts
    assert [len(part) for part in parts] == [188, 47, 50, 15]
    assert task.trusted_label.bincount().tolist() == [3] * 5
    assert torch.equal(task.trusted_x.argmax(1), task.trusted_label)  # clean
    assert torch.equal(task.test_x.argmax(1), task.test_label)
    both = torch.cat([task.label, task.validation_label])
    truth = torch.cat([clean.label, clean.validation_label])
    assert (both != truth).sum() == round(0.4 * 235)
    assert torch.equal(task.x, clean.x)
    assert torch.equal(task.true_label, clean.label)
    assert torch.equal(task.test_x, other.test_x)
    assert not torch.equal(task.x, other.x)
    assert len(task.with_trusted().x) == 188 + 15
    alone = task.only_trusted()
    assert len(alone.x) == 188
    assert alone.is_clean.all()
    assert len(alone.x.unique(dim=0)) == 15


def small_network() -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    # Smooth: a central difference does not see the corner of a ReLU.
    backbone = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh())
    return backbone.double(), networks.LinearHead(5, 8).double()


def method_of(
    network: tuple[torch.nn.Module, Any], folder: Path, **robust: Any
) -> tuple[Any, StepBatch]:
    """The product's method on a linear head, and six samples; its trusted images are others."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 5, (6,), generator=generator)
    task = SimpleNamespace(x=x, label=label, trusted_x=x.flip(0) + 0.3, trusted_label=label.flip(0))
    method = training.method_of(robust, *network, task, 0, 1, folder)
    method.start(9)
    batch = StepBatch(x, label, torch.arange(6), torch.zeros(6, dtype=torch.float64))
    method.begin_step(9, batch)
    return method, batch


def gradient(loss: Tensor, network: tuple[torch.nn.Module, Any]) -> Tensor:
    parameters = [*network[0].parameters(), network[1].weight]
    parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def test_a_linear_head_is_torchs_layer_and_cross_entropy() -> None:
    head = networks.LinearHead(5, 8, seed=3).double()
    layer = torch.nn.Linear(8, 5).double()
    with torch.no_grad():
        layer.weight.copy_(head.weight[:, :-1])
        layer.bias.copy_(head.weight[:, -1])
    x, label = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, -1])
    extra = torch.tensor([[1, 0], [1, 2], [0, 0], [3, 3], [0, 1], [-1, -1]])
    output, logits = head(x, label, None, extra), layer(x)
    expected = F.cross_entropy(logits, label, reduction="none", ignore_index=-1)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.plain_loss(1.0)[:5], expected[:5].detach())
    for column in range(2):
        of_extra = F.cross_entropy(logits, extra[:, column], reduction="none", ignore_index=-1)
        torch.testing.assert_close(output.extra_loss[:, column], of_extra)
    torch.testing.assert_close(output.plain_probability[:5, 0], (-expected[:5]).exp().detach())
    torch.testing.assert_close(
        torch.autograd.grad(output.loss.sum(), head.weight)[0][:, :-1],
        torch.autograd.grad(expected.sum(), layer.weight)[0],
    )
    logit, nearest = head.nearest(x, 6)
    assert torch.equal(nearest[:, :5], logits.argsort(1, descending=True))
    assert (nearest[:, 5] == -1).all()
    assert (logit.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("loss", ["l2", "smooth_l1"])
def test_a_number_is_weighed_by_its_own_loss(tmp_path: Path, loss: str) -> None:
    backbone = small_network()[0]
    head = networks.NumberHead(8, loss).double()
    method, batch = method_of((backbone, head), tmp_path, name="superloss", lam=2.0)
    embedding = backbone(batch.image)
    error = (embedding @ head.weight[0, :8] + head.weight[0, 8] - batch.label).abs()
    smooth = torch.where(error < 1, error.square() / 2, error - 0.5)
    plain = error.square() if loss == "l2" else smooth
    weight = confidence(plain, plain.mean().detach(), 2.0)  # the first batch is its own threshold
    torch.testing.assert_close(method.loss(embedding, slice(0, 6)), weight * plain)


def test_nal_moves_the_network_as_its_whole_loss_does(tmp_path: Path) -> None:
    """`joint`, in two parts as for a margin head; under cross-entropy that is Eq. 1 itself."""
    network = small_network()
    options = {"name": "nal", "boost": 0.5, "warmup_epochs": 0, "attention": "joint"}
    method, batch = method_of(network, tmp_path, **options)
    branch = method.trained.double()
    assert branch(torch.ones(1, 8)).item() == 0.5
    torch.nn.init.normal_(branch.linear.weight)
    got = gradient(method.loss(network[0](batch.image), slice(0, 6)).mean(), network)
    embedding = network[0](batch.image)
    p = network[1].logits(embedding).softmax(1).gather(1, batch.label[:, None])
    whole = noise_attention_loss(p, torch.ones_like(p), branch(embedding), 0.5).mean()
    assert torch.allclose(got, gradient(whole, network), rtol=1e-9, atol=1e-12)


def test_nal_with_targets_is_the_dense_one(tmp_path: Path) -> None:
    """All five classes are kept, so the memory is q <- 0.9 q + 0.1 p."""
    network = small_network()
    options = {"boost": 0.5, "warmup_epochs": 0, "attention": "joint", "targets": {"count": 5}}
    method, batch = method_of(network, tmp_path, name="nal", **options)
    method.trained.double()
    embedding = network[0](batch.image)
    method.loss(embedding, slice(0, 6))  # trains on one-hot targets, then renews them
    method.begin_step(10, batch)
    got = gradient(method.loss(embedding, slice(0, 6)).mean(), network)
    embedding = network[0](batch.image)
    p = network[1].logits(embedding).softmax(1)
    q = (0.9 * F.one_hot(batch.label, 5).double() + 0.1 * p).detach()
    whole = noise_attention_loss(p, q, method.trained(embedding), 0.5).mean()
    # The memory is float16.
    assert torch.allclose(got, gradient(whole, network), rtol=1e-2, atol=1e-4)
    assert torch.equal(method.per_sample()["estimated_label"], batch.label)


@pytest.mark.parametrize("pseudo_labels", [True, False])
def test_l2b_and_l2rw_weigh_by_the_inner_products(tmp_path: Path, pseudo_labels: bool) -> None:
    """Alpha and beta, one gradient at a time."""
    network = small_network()
    options = {"warmup_epochs": 0, "batch_size": 6, "pseudo_labels": pseudo_labels}
    method, batch = method_of(network, tmp_path, name="l2b", **options)
    backbone, head = network
    label = batch.label

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(head.logits(backbone(x)), target, reduction="none")

    meta = gradient(loss(batch.image.flip(0) + 0.3, label.flip(0)).mean(), network)
    pseudo = head.logits(backbone(batch.image)).argmax(1)
    raw = torch.tensor(
        [
            [
                float(gradient(loss(x[None], one[None]).sum(), network) @ meta)
                for x, one in zip(batch.image, target, strict=True)
            ]
            for target in (label, pseudo)
        ]
    ).double()
    kept = raw.clamp_min(0) * torch.tensor([[1.0], [float(pseudo_labels)]])
    weight = kept / kept.sum()
    found = method.loss(backbone(batch.image), slice(0, 6))
    seen = method.per_sample()
    assert torch.allclose(seen["alpha"], 6 * weight[0], atol=1e-3)
    assert torch.allclose(seen["beta"], 6 * weight[1], atol=1e-3)
    expected = weight[0] * loss(batch.image, label) + weight[1] * loss(batch.image, pseudo)
    assert torch.allclose(found, 6 * expected, atol=1e-2)


def test_crops_are_cut_out_of_the_padded_image() -> None:
    torch.manual_seed(0)
    x = torch.arange(1.0, 3 * 8 * 8 + 1).view(1, 3, 8, 8).expand(200, -1, -1, -1)
    padded = torch.nn.functional.pad(x[0], (4, 4, 4, 4))
    found = set()
    for image in images.crop_and_flip(x):
        for mirrored in (False, True):
            straight = image.flip(2) if mirrored else image
            for top in range(9):
                for left in range(9):
                    if torch.equal(straight, padded[:, top : top + 8, left : left + 8]):
                        found.add((mirrored, top, left))
    assert len({where[1] for where in found}) == len({where[2] for where in found}) == 9
    assert {where[0] for where in found} == {False, True}
    assert len(found) > 100  # of 162 places; each of the 200 images has exactly one


def test_shuffled_flags_separate_nothing() -> None:
    is_clean = np.arange(4000) < 2400
    weight = np.tile(is_clean + np.linspace(0, 0.5, 4000), (12, 1)).astype(np.float32)
    weight[-1] *= -1
    record = training.Record({"weight": weight}, 0.0, 0.0)
    label = np.zeros(4000, np.int64)
    areas = runs.Outcome(record, is_clean, label, label).separation(0)
    assert areas["weight mean"] == 1
    assert areas["weight last"] == 0
    # Standard deviation of an AUROC of 2400 against 1600 without any signal: 0.0093.
    assert abs(areas["shuffled"] - 0.5) < 5 * 0.0093


def test_weights_separate_and_shuffled_flags_do_not(pool: Any) -> None:
    """On samples that a linear layer parts without error, 40 % noise cannot be fitted."""

    def network(seed: int) -> Any:
        torch.manual_seed(seed)
        return torch.nn.Linear(5, 5), networks.LinearHead(5, 5, seed)

    setup = runs.Setup(pool, network, runs.sgd(12, 32, 0.1), num_trusted=3)
    of_nal = {"name": "nal", "boost": 0.5, "warmup_epochs": 5, "targets": {"warmup_epochs": 8}}
    for robust in (
        {"name": "superloss", "lam": 1.0},
        of_nal,
        {"name": "l2b", "warmup_epochs": 2, "batch_size": 15},
    ):
        found = runs.run(setup, runs.Row(robust), "symmetric", 0.4, 0)
        areas = found.separation(0)
        assert found.score > 0.9, robust
        assert areas["alpha mean" if robust["name"] == "l2b" else "weight mean"] > 0.9, robust
        # Five standard deviations for 141 clean against 94 noisy samples.
        assert abs(areas["shuffled"] - 0.5) < 5 * 0.0385, robust


def test_the_bench_runs_to_its_table_on_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    label = np.repeat(np.arange(8), 12)
    embedding = np.eye(8)[label] + 0.1 * generator.normal(size=(96, 8))
    label[-3:] = 8  # too few images of one identity
    np.savez(tmp_path / "features.npz", embedding=embedding.astype(np.float32), label=label)
    arguments = f"{tmp_path / 'features.npz'} --seeds 0 --epochs 7 --json {tmp_path / 'a.json'}"
    bench_robust.main([*arguments.split(), "--pictures", str(tmp_path / "pictures")])
    table = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    rows = ["clean", "plain", "plain, clipped", "plain + trusted", "trusted alone", "superloss"]
    assert table[-11:] == [*rows, "nal, branch", "nal", "nal + targets", "l2rw", "l2b"]
    found = json.loads((tmp_path / "a.json").read_text())["symmetric 0.4"]["0"]
    assert found["clean"]["accuracy"] == 1
    assert 0 <= found["superloss"]["weight mean"] <= 1
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 5
