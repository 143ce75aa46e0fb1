"""The identity model against joint Gaussian densities written out over all images of a class."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import sklearn.covariance
import torch
from helpers.people import rotation
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.stats import multivariate_normal

from facetrain.clean.identity_model import IdentityModel, _moments, fit_identities, shrunk
from facetrain.core.rng import numpy_generator

SIZE = 8
SHARE, SPREAD = (0.6, 0.3, 0.1), (1.0, 1.6, 4.0)
Floats = NDArray[np.float64]


class Covariances(NamedTuple):
    """W and B in the space of the embeddings, neither of them diagonal, and the model they make."""

    within: Floats
    between: Floats
    model: IdentityModel


@pytest.fixture(scope="module")
def known() -> Covariances:
    generator = numpy_generator(0, "covariances")

    def covariance(scale: float) -> Floats:
        square = generator.normal(size=(SIZE, SIZE))
        return np.asarray(scale * (square @ square.T / SIZE + 0.2 * np.eye(SIZE)))

    within, between = covariance(0.5), covariance(2.0)
    variance, basis = eigh(between, within)  # basis.T W basis = I, basis.T B basis diagonal
    values = (basis[:, ::-1].copy(), variance[::-1].copy(), SHARE, SPREAD)
    model = IdentityModel(*(torch.tensor(value, dtype=torch.float64) for value in values))
    return Covariances(within, between, model)


def log_joint(known: Covariances, images: Floats, quality: list[int]) -> float:
    """Log density of images (n, D) of these qualities, all of one person: one Gaussian of n * D."""
    covariance = np.kron(np.ones((len(quality), len(quality))), known.between)
    covariance += np.kron(np.diag(np.array(SPREAD)[quality]), known.within)
    return float(multivariate_normal.logpdf(images.ravel(), cov=covariance)) if quality else 0.0


def members_of(
    known: Covariances, images: Floats, quality: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Their z, and n and t."""
    z = torch.from_numpy(images) @ known.model.basis
    one_hot = torch.eye(len(SHARE), dtype=torch.float64)[quality]
    counts = known.model.weight(one_hot)
    return z, counts.sum(), (counts[:, None] * z).sum(0)


@pytest.mark.parametrize("members", [[], [0], [2], [0, 1, 2, 0]], ids=str)
def test_likelihood_is_a_ratio_of_joint_densities(members: list[int], known: Covariances) -> None:
    """p(x, quality | members) = share * p(members, x) / p(members)."""
    images = 2 * numpy_generator(1, "images").normal(size=(len(members) + 1, SIZE))
    _, precision, total = members_of(known, images[1:], members)
    found = known.model.log_likelihood(
        torch.from_numpy(images[0]) @ known.model.basis, precision, total
    )
    volume = np.linalg.slogdet(known.model.basis.numpy())[1]
    constant = SIZE / 2 * math.log(2 * math.pi) - volume  # of z, not x; without (2 pi)^(-D/2)
    together = [log_joint(known, images, [quality, *members]) for quality in range(len(SHARE))]
    alone = log_joint(known, images[1:], members)
    expected = np.log(SHARE) + np.array(together) - alone + constant
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("qualities", [([0], [0]), ([1], [2, 0]), ([0, 0, 2], [1, 1])], ids=str)
def test_evidence_is_a_ratio_of_joint_densities(
    qualities: tuple[list[int], list[int]], known: Covariances
) -> None:
    """That two groups are one person, against two; and the group against as many strangers."""
    first, second = qualities
    images = 2 * numpy_generator(2, "images").normal(size=(len(first) + len(second), SIZE))
    parts = images[: len(first)], images[len(first) :]
    members = [members_of(known, part, one)[1:] for part, one in zip(parts, qualities, strict=True)]
    both = members[0][0] + members[1][0], members[0][1] + members[1][1]
    evidence = [float(known.model.log_evidence(*one)) for one in (*members, both)]
    joints = [log_joint(known, part, one) for part, one in zip(parts, qualities, strict=True)]
    together = log_joint(known, images, first + second)
    assert evidence[2] - evidence[0] - evidence[1] == pytest.approx(
        together - sum(joints), rel=1e-9
    )
    strangers = sum(
        log_joint(known, image[None], [quality])
        for image, quality in zip(images, first + second, strict=True)
    )
    singles = sum(
        float(known.model.log_evidence(*members_of(known, image[None], [quality])[1:]))
        for image, quality in zip(images, first + second, strict=True)
    )
    assert evidence[2] - singles == pytest.approx(together - strangers, rel=1e-9)


class Drawn(NamedTuple):
    x: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor


def drawn(known: Covariances, seed: int, num_classes: int, images: int, hard: float = 0.0) -> Drawn:
    """Images of the model itself, a share `hard` of them of quality 2."""
    generator = numpy_generator(seed, "drawn")
    label = np.repeat(np.arange(num_classes), images)
    person = generator.multivariate_normal(np.zeros(SIZE), known.between, num_classes)
    rest = generator.multivariate_normal(np.zeros(SIZE), known.within, len(label))
    is_hard = generator.random(len(label)) < hard
    x = person[label] + np.sqrt(np.where(is_hard, SPREAD[2], 1.0))[:, None] * rest
    weight = generator.uniform(0.2, 1, len(label))
    return Drawn(*(torch.from_numpy(value) for value in (x, label, weight)))


@pytest.mark.parametrize("spread", [(1.0,), SPREAD], ids=["Gaussian", "heavy tail"])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_the_bound_never_falls(images: int, spread: tuple[float, ...], known: Covariances) -> None:
    x, label, weight = drawn(known, 3, 20, images, hard=0.2)
    label = label.clone()
    label[-1] = 20  # and a class of one image
    bound = np.array(fit_identities(x, label, weight, spread, iterations=15)[1])
    assert (np.diff(bound) >= -1e-9 * np.abs(bound[1:])).all()
    assert bound[-1] > bound[0] + 0.1


def test_the_gaussian_bound_is_the_joint_density(known: Covariances) -> None:
    """With one quality nothing is approximate: log p(all images | W, B) + log p(W, B)."""
    x, label, _ = drawn(known, 4, 6, 3)
    certain, num_steps = torch.ones(len(x), dtype=torch.float64), 3
    fitted = fit_identities(x, label, certain, (1.0,), num_steps)[0]
    bound = fit_identities(x, label, certain, (1.0,), num_steps + 1)[1][-1]
    inverse = torch.linalg.inv(fitted.basis.double())
    within = inverse.mT @ inverse
    between = inverse.mT @ (fitted.between.double()[:, None] * inverse)
    posed = Covariances(within.numpy(), between.numpy(), fitted)
    density = sum(log_joint(posed, x[label == one].numpy(), [0] * 3) for one in range(6))
    prior_within, prior_between, *_ = _moments(x, label, certain, 6)
    prior = prior_within.log_density(within) + prior_between.log_density(between)
    constant = x.numel() / 2 * math.log(2 * math.pi)
    assert bound == pytest.approx(density + constant + prior, abs=2e-3)  # the model is float32


def covariances_of(model: IdentityModel) -> tuple[Floats, Floats]:
    inverse = torch.linalg.inv(model.basis.double())
    between = inverse.mT @ (model.between.double()[:, None] * inverse)
    return (inverse.mT @ inverse).numpy(), between.numpy()


def off_by(found: Floats, truth: Floats) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def test_covariances_are_recovered(known: Covariances) -> None:
    x, label, weight = drawn(known, 5, 1500, 4)
    certain = torch.ones_like(weight)
    found = covariances_of(fit_identities(x, label, certain, (1.0,))[0])
    assert off_by(found[0], known.within) < 0.06  # as far off as 4500 differences leave it
    assert off_by(found[1], known.between) < 0.1
    # Under shuffled labels nothing is left between classes.
    shuffled = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))]
    wrong = covariances_of(fit_identities(x, shuffled, certain, (1.0,))[0])
    assert off_by(wrong[1], known.between) > 0.8


def test_hard_images_are_recovered(known: Covariances) -> None:
    """A tenth of the images is hard; the Gaussian model widens W for their sake."""
    x, label, weight = drawn(known, 6, 400, 24, hard=0.1)
    certain = torch.ones_like(weight)
    heavy = fit_identities(x, label, certain, (1.0, 4.0), iterations=30)[0]
    assert float(heavy.share[1]) == pytest.approx(0.1, abs=0.02)
    gaussian = fit_identities(x, label, certain, (1.0,), iterations=30)[0]
    within = [off_by(covariances_of(model)[0], known.within) for model in (heavy, gaussian)]
    assert within[0] < 0.1 < 0.25 < within[1]
    none = drawn(known, 6, 400, 24)
    usual = fit_identities(none.x, none.label, certain, (1.0, 4.0), iterations=30)[0]
    assert float(usual.share[1]) < 0.01


def test_weights_are_fractions_of_images(known: Covariances) -> None:
    """An image twice at half the weight is that image; at no weight it is not there."""
    x, label, _ = drawn(known, 7, 12, 3)
    ones = torch.ones(len(x), dtype=torch.float64)
    expected = fit_identities(x, label, ones)
    twice = fit_identities(
        torch.cat([x, x]), torch.cat([label, label]), torch.cat([ones, ones]) / 2
    )
    strangers = torch.cat([x, 9 + x[:5]]), torch.cat([label, label[:5]])
    absent = fit_identities(*strangers, torch.cat([ones, 0 * ones[:5]]))
    for found in (twice, absent):
        for one, other in zip(covariances_of(found[0]), covariances_of(expected[0]), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
        torch.testing.assert_close(found[0].share, expected[0].share)


@pytest.mark.parametrize(("num_classes", "images"), [(2, 3), (5, 1), (1, 1), (1, 4)])
def test_fewer_images_than_dimensions(num_classes: int, images: int, known: Covariances) -> None:
    """Always a model, and the same one in another frame; a turned image is the same image."""
    x, label, weight = drawn(known, 8, num_classes, images)
    turn = torch.from_numpy(rotation(0, SIZE)).double()
    turned = x @ turn
    said = []
    for rows in (x, turned):
        model = fit_identities(rows, label, weight)[0]
        assert all(bool(value.isfinite().all()) for value in vars(model).values())
        z = rows.float() @ model.basis
        nothing = torch.zeros(len(z))
        first = model.log_likelihood(z, nothing + 1, z[:1].expand_as(z)).logsumexp(1)
        said.append(first - model.log_likelihood(z, nothing, 0 * z).logsumexp(1))
    torch.testing.assert_close(*said, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", [3, 20, 400])
def test_few_observations_are_drawn_to_the_identity_as_in_scikit_learn(number: int) -> None:
    """Of directions of quite different variance; its formula has a small term of its own."""
    x = numpy_generator(number, "few").normal(size=(number, 12)) * np.linspace(0.2, 2, 12)
    expected, share = sklearn.covariance.oas(x, assume_centered=True)
    found = shrunk(torch.from_numpy(x.T @ x / number), number).numpy()
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    assert (share > 0.2) == (number < 100)


def test_one_dimension_and_no_variance_are_left() -> None:
    assert float(shrunk(torch.full((1, 1), 3.0), 5)) == pytest.approx(3)
    assert bool(shrunk(torch.zeros(4, 4), 5).isfinite().all())
