"""The meta-gradient against autograd, finite differences and Eq. 5 with the whole Hessian."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.class_graphs import random_features, random_table
from torch import Tensor

from facetrain.clean.meta_update import Parameters, meta_gradient
from facetrain.core.errors import ConfigError
from facetrain.graph.dgl_graph import DGLGraph, import_dgl
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import GCN, GCNConfig

ALPHA, GAMMA = 0.3, 0.4
Loss = Callable[[Parameters], Tensor]
NUM_CLASSES = 3


def tiny_parameters() -> Parameters:
    shapes = {"first": (2, 3), "second": (3, 1), "unused": (2, 1)}
    return {name: random_features(*shape, name) for name, shape in shapes.items()}


def class_losses(domain: str) -> list[Loss]:
    """A smooth network's binary cross-entropy on each of B classes."""

    def one(place: int) -> Loss:
        x = random_features(5, 2, domain, place)
        y = (random_features(5, 1, domain, place, "label") > 0).double()

        def loss(theta: Parameters) -> Tensor:
            logit = torch.tanh(x @ theta["first"]) @ theta["second"]
            return F.binary_cross_entropy_with_logits(logit, y)

        return loss

    return [one(place) for place in range(NUM_CLASSES)]


def mean(losses: list[Loss]) -> Loss:
    return lambda theta: torch.stack([loss(theta) for loss in losses]).mean()


TRAIN, TEST = mean(class_losses("source")), mean(class_losses("target"))


def run(
    theta: Parameters,
    train: Loss = TRAIN,
    test: Loss = TEST,
    *,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
    second_order: bool = True,
) -> Parameters:
    return meta_gradient(
        theta,
        train,
        test,
        inner_learning_rate=alpha,
        source_weight=gamma,
        second_order=second_order,
    )


def meta_loss(theta: Parameters, train: Loss = TRAIN, test: Loss = TEST) -> Tensor:
    """Eq. 1, differentiable through the inner step."""
    value = train(theta)
    gradient = torch.autograd.grad(
        value, list(theta.values()), create_graph=True, materialize_grads=True
    )
    stepped = {n: v - ALPHA * g for (n, v), g in zip(theta.items(), gradient, strict=True)}
    return GAMMA * value + (1 - GAMMA) * test(stepped)


def by_autograd(theta: Parameters, train: Loss = TRAIN, test: Loss = TEST) -> Parameters:
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    values = torch.autograd.grad(
        meta_loss(leaves, train, test), list(leaves.values()), materialize_grads=True
    )
    return dict(zip(leaves, values, strict=True))


def plain_gradient(loss: Loss, theta: Parameters) -> Parameters:
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    values = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, values, strict=True))


def flat(parameters: Parameters) -> Tensor:
    return torch.cat([value.flatten() for value in parameters.values()])


def unflat(vector: Tensor) -> Parameters:
    shapes = tiny_parameters()
    parts = vector.split([value.numel() for value in shapes.values()])
    return {n: part.view_as(v) for (n, v), part in zip(shapes.items(), parts, strict=True)}


def test_it_is_autograd_of_the_meta_loss() -> None:
    theta = tiny_parameters()
    found = run(theta)
    torch.testing.assert_close(found, by_autograd(theta))
    assert not any(value.requires_grad for value in found.values())
    assert not any(value.requires_grad for value in theta.values())


def test_it_is_the_finite_difference_of_the_meta_loss() -> None:
    centre = flat(tiny_parameters())
    step = 1e-5
    expected = torch.zeros_like(centre)
    for place in range(len(centre)):
        shift = torch.zeros_like(centre)
        shift[place] = step
        above, below = (
            meta_loss(unflat((centre + sign * shift).requires_grad_())).item() for sign in (1, -1)
        )
        expected[place] = (above - below) / (2 * step)
    # step^2 times a third derivative, and 1e-16 / step of rounding
    torch.testing.assert_close(flat(run(tiny_parameters())), expected, rtol=0, atol=1e-9)


def test_it_is_equation_5_with_the_whole_hessian() -> None:
    """theta - alpha * gradient, from sums over the B classes and every second derivative."""
    theta = flat(tiny_parameters())
    train, test = class_losses("source"), class_losses("target")
    count = NUM_CLASSES

    def total_gradient(losses: list[Loss], at: Tensor) -> Tensor:
        return torch.stack([flat(plain_gradient(loss, unflat(at))) for loss in losses]).sum(0)

    hessian = torch.stack(
        [torch.autograd.functional.hessian(lambda v, f=loss: f(unflat(v)), theta) for loss in train]
    ).sum(0)
    of_train = total_gradient(train, theta)
    of_test = total_gradient(test, theta - ALPHA / count * of_train)
    expected = (
        theta
        - GAMMA * ALPHA / count * of_train
        - (1 - GAMMA) * ALPHA / count * of_test
        + (1 - GAMMA) * ALPHA**2 / count**2 * hessian @ of_test
    )
    third = (1 - GAMMA) * ALPHA**2 / count**2 * hessian @ of_test
    assert third.norm() > 1e-3
    second = run(unflat(theta))
    torch.testing.assert_close(theta - ALPHA * flat(second), expected)
    first = run(unflat(theta), second_order=False)
    torch.testing.assert_close(theta - ALPHA * flat(first), expected - third)


def test_limits() -> None:
    """gamma 1 is the source alone; alpha 0 is the weighted sum of both at theta."""
    theta = tiny_parameters()
    of_train, of_test = flat(plain_gradient(TRAIN, theta)), flat(plain_gradient(TEST, theta))
    for second_order in (False, True):
        alone = run(theta, gamma=1.0, second_order=second_order)
        torch.testing.assert_close(flat(alone), of_train)
        at_theta = run(theta, alpha=0.0, second_order=second_order)
        expected = GAMMA * of_train + (1 - GAMMA) * of_test
        torch.testing.assert_close(flat(at_theta), expected)


@pytest.mark.parametrize("backend", ["native", "dgl"])
@pytest.mark.parametrize("second_order", [True, False])
def test_through_the_cleaner(backend: str, second_order: bool) -> None:
    """Both graphs against autograd, the first order against two plain gradients."""
    if backend == "dgl":
        try:
            import_dgl()
        except ConfigError as error:
            pytest.skip(str(error))
    gcn = GCN(GCNConfig(widths=(6, 4)), 3).double()
    theta: Parameters = {
        name: 0.7 * random_features(1, value.numel(), "gcn", place).view_as(value)
        for place, (name, value) in enumerate(gcn.named_parameters())
    }

    def loss_on(sizes: tuple[int, ...]) -> Loss:
        table = random_table(sizes)
        graph = (DGLGraph if backend == "dgl" else NeighbourTable)(*table)
        features = random_features(sum(sizes), 3, *sizes)
        is_clean = (random_features(sum(sizes), 1, "label", *sizes)[:, 0] > 0).double()

        def loss(parameters: Parameters) -> Tensor:
            output = torch.func.functional_call(gcn, parameters, (features, graph))
            return F.binary_cross_entropy_with_logits(output.logit, is_clean)

        return loss

    train, test = loss_on((1, 6, 9)), loss_on((8, 4))
    found = flat(run(theta, train, test, second_order=second_order))
    exact = flat(by_autograd(theta, train, test))
    of_train = plain_gradient(train, theta)
    stepped = {name: value - ALPHA * of_train[name] for name, value in theta.items()}
    first = GAMMA * flat(of_train) + (1 - GAMMA) * flat(plain_gradient(test, stepped))
    assert (exact - first).norm() > 1e-3 * exact.norm()
    torch.testing.assert_close(found, exact if second_order else first)
