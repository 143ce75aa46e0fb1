"""What images of one person look like: a heavy-tailed two-covariance model of embeddings.

Two-covariance PLDA (Ioffe, ECCV 2006; Prince and Elder, ICCV 2007), its tail made heavy as in
Kenny (Odyssey 2010): an identity is y ~ N(0, B), and an image of it, of quality j with
probability share_j,

    x = y + e,   e ~ N(0, spread_j W).

Images in profile, covered or blurred lie further off, by factors that are a grid. In the basis
where W = I and B = diag(b) all that is asked of a class is its precision n and its weighted sum t,
and costs O(D).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SPREAD = (1.0, 1.5, 2.0, 3.0)
"""Of the qualities, a grid from which a heavy tail is mixed. (1,) is the Gaussian model."""
_ITERATIONS = 5
_PRIOR_WITHIN, _PRIOR_BETWEEN = 8, 0.5
"""Strength of the priors of W and B, in observations a dimension."""
_LEAST_VARIANCE = 1e-2  # of identities, in the units of W


@dataclasses.dataclass(frozen=True)
class IdentityModel:
    """Parameters in the basis where images of one identity have unit covariance."""

    basis: Tensor  # (D, D) z = x @ basis
    between: Tensor  # (D,) b, variances of identities, descending
    share: Tensor  # (J,) of the qualities, sums to 1
    spread: Tensor  # (J,) 1 first, ascending

    def log_likelihood(
        self, z: Tensor, precision: Tensor, total: Tensor, volume: Tensor | None = None
    ) -> Tensor:
        """Log p(z, quality | the members of a class), (..., J), up to a constant.

        Given members of precision n and sum t the identity is y ~ N(v t, v), v = 1 / (1/b + n).
        Without members, n = 0, it is anybody.

        Args:
            z: (..., D) an image, in the model's basis.
            precision: (...,) n.
            total: (..., D) t.
            volume: (..., J) of `precision`, where it is known; its logarithms are half of the cost.
        """
        if volume is None:
            volume = self.volume(precision)
        variance = self._variance(precision)
        square = (z - variance * total).square_()
        wide = torch.empty_like(square)
        found = []
        for quality, spread in enumerate(self.spread.tolist()):
            torch.div(square, torch.add(variance, spread, out=wide), out=wide)
            found.append(self.share[quality].log() - 0.5 * (wide.sum(-1) + volume[..., quality]))
        return torch.stack(found, -1)

    def log_anybody(self, z: Tensor) -> Tensor:
        """Log p(z) (...,) of an image (..., D) of somebody without other images."""
        none, volume = z.new_zeros(z.shape[:-1]), self.volume(z.new_zeros(()))
        return self.log_likelihood(z, none, torch.zeros_like(z), volume).logsumexp(-1)

    def log_ratio(self, z: Tensor, precision: Tensor, total: Tensor) -> Tensor:
        """LLR (...,): log p(z | the members of a class) - log p(z | anybody)."""
        return self.log_likelihood(z, precision, total).logsumexp(-1) - self.log_anybody(z)

    def volume(self, precision: Tensor) -> Tensor:
        """Sum over d of log(v_d + spread_j), (..., J): what `log_likelihood` has of n alone."""
        variance = self._variance(precision)
        wide = (variance + spread for spread in self.spread.tolist())
        return torch.stack([one.log_().sum(-1) for one in wide], -1)

    def _variance(self, precision: Tensor) -> Tensor:
        """What is unknown of an identity, v, (..., D)."""
        return self.between / (1 + self.between * precision[..., None])

    def weight(self, quality: Tensor) -> Tensor:
        """What an image counts in n, and its z in t, from its qualities (..., J)."""
        return quality @ (1 / self.spread)

    def log_evidence(self, precision: Tensor, total: Tensor) -> Tensor:
        """Log m(n, t) = log of the members' likelihood over that of as many strangers, (...,).

        Up to what does not depend on who is with whom: 1/2 sum_d log(v/b) + v t^2.
        """
        shrink = 1 / (1 + self.between * precision[..., None])
        return 0.5 * (shrink.log() + shrink * self.between * total.square()).sum(-1)


class _Prior(NamedTuple):
    """Inverse-Wishart: of the weight of `strength` observations whose covariance is `shape`."""

    shape: Tensor  # (D, D)
    strength: float

    def mode(self, scatter: Tensor, number: float) -> Tensor:
        """The covariance (D, D) most likely after `number` observations of sum `scatter`."""
        return (scatter + self.strength * self.shape) / (number + self.strength)

    def log_density(self, covariance: Tensor) -> float:
        """Up to a constant."""
        inside = torch.linalg.solve(covariance, self.shape).trace()
        return -0.5 * self.strength * float(torch.linalg.slogdet(covariance)[1] + inside)


def fit_identities(
    unit_embedding: Tensor,
    label: Tensor,
    weight: Tensor,
    spread: Sequence[float] = SPREAD,
    iterations: int = _ITERATIONS,
) -> tuple[IdentityModel, list[float]]:
    """Maximum a posteriori W, B and qualities by variational EM: q(y) q(quality) in each class.

    Inverse-Wishart priors hold W and B where images and identities are few: W as 8 D images shaped
    as the covariance of all, B as D / 2 identities that differ as images of one do, as far apart as
    the moments say. A class of one image counts for B as well. Costs iterations * N * D^2.

    Args:
        unit_embedding: (N, D) centred.
        label: (N,) 0 to C - 1.
        weight: (N,) in [0, 1], how probable each label is.
        spread: (J,) of the qualities, 1 first, ascending.
        iterations: of EM.

    Returns:
        The model, and after each iteration the lower bound of the log posterior, never falling.
    """
    x, weight = unit_embedding.double(), weight.double()
    num_classes, size, number = int(label.max()) + 1, x.shape[1], float(weight.sum())
    prior_within, prior_between, within, between = _moments(x, label, weight, num_classes)
    wide = torch.tensor(spread, dtype=x.dtype, device=x.device)
    share = torch.full_like(wide, 0.2 / max(len(wide) - 1, 1))
    share[0] = 1 - share[1:].sum()
    quality = torch.eye(1, len(wide), dtype=x.dtype, device=x.device).expand(len(x), -1)
    bounds = []

    def sums(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images by their weight and quality, (N, D), and each class's n (C,) and t (C, D)."""
        counts = weight * (quality @ (1 / wide))
        counted, precision = counts[:, None] * z, _by_class(counts, label, num_classes)
        return counted, precision, _by_class(counted, label, num_classes)

    for _ in range(iterations):
        basis, variances = _diagonalise(within, between)
        z = x @ basis
        _, precision, total = sums(z)
        variance = variances / (1 + variances * precision[:, None])  # (C, D)
        mean = variance * total
        distance = (z - mean[label]).square().sum(1) + variance.sum(1)[label]  # expected, (N,)
        joint = share.log() - 0.5 * (distance[:, None] / wide + size * wide.log())
        quality = joint.softmax(1)
        bounds.append(
            float((weight * joint.logsumexp(1)).sum())
            + number * float(torch.linalg.slogdet(basis)[1])
            + 0.5 * float((variance.log() - variances.log() + 1).sum())
            - 0.5 * float(((mean.square() + variance) / variances).sum())
            + prior_within.log_density(within)
            + prior_between.log_density(between)
        )
        share = ((weight @ quality) / number).clamp(min=1e-6)
        share = share / share.sum()
        inverse = torch.linalg.inv(basis)
        # Sum of counts (z - y)(z - y)^T over the images, expected, by sums over classes.
        counted, precision, total = sums(z)
        cross = mean.mT @ total
        scatter = counted.mT @ z - cross - cross.mT + (precision[:, None] * mean).mT @ mean
        scatter += torch.diag(precision @ variance)
        within = prior_within.mode(inverse.mT @ scatter @ inverse, number)
        spread_of_classes = mean.mT @ mean + torch.diag(variance.sum(0))
        between = prior_between.mode(inverse.mT @ spread_of_classes @ inverse, num_classes)
    basis, variances = _diagonalise(within, between)
    return IdentityModel(*(one.float() for one in (basis, variances, share, wide))), bounds


def _by_class(value: Tensor, label: Tensor, num_classes: int) -> Tensor:
    return value.new_zeros(num_classes, *value.shape[1:]).index_add_(0, label, value)


def _moments(
    x: Tensor, label: Tensor, weight: Tensor, num_classes: int
) -> tuple[_Prior, _Prior, Tensor, Tensor]:
    """The priors of W and B, and first W and B from the scatter inside and over the classes.

    EM moves little where most classes have one image, so it begins at what the moments say.
    """
    size = x.shape[1]
    count = _by_class(weight, label, num_classes)
    mean = _by_class(weight[:, None] * x, label, num_classes) / count.clamp(min=1e-9)[:, None]
    inside = weight * (count > 1.5)[label]
    rest = x - mean[label]
    degrees = float((inside.sum() - (count > 1.5).sum()).clamp(min=1))
    scatter = (rest * inside[:, None]).mT @ rest
    # Each class counts once: by images, a few large ones would be all that B is made of.
    alike = weight / count.clamp(min=1e-9)[label]
    covariance = (x * alike[:, None]).mT @ x / alike.sum().clamp(min=1e-9)
    covariance = shrunk(covariance, float(alike.sum()))
    ratio = (scatter.trace() / degrees / covariance.trace()).clamp(0.05, 0.95)
    prior_within = _Prior(ratio * covariance, _PRIOR_WITHIN * size)
    within = prior_within.mode(scatter, degrees)
    basis, value = _diagonalise(within, covariance)
    inverse = torch.linalg.inv(basis)
    between = inverse.mT @ ((value - 1).clamp(min=_LEAST_VARIANCE)[:, None] * inverse)
    far = (value - 1).mean().clamp(min=_LEAST_VARIANCE)
    prior_between = _Prior(far * within, _PRIOR_BETWEEN * size)
    between = prior_between.mode(num_classes * between, num_classes)
    return prior_within, prior_between, within, between


def shrunk(covariance: Tensor, number: float) -> Tensor:
    """The covariance (D, D) of `number` observations, drawn to a multiple of the identity.

    Oracle approximating shrinkage (Chen, Wiesel, Eldar and Hero, IEEE TSP 2010, Eq. 23), for
    weighted observations. Where they are few, W = I would else stretch what the images happen not
    to vary in, and every other image of the same people would look like a stranger.
    """
    size = len(covariance)
    trace, square = covariance.trace(), covariance.square().sum()
    above = (1 - 2 / size) * square + trace.square()
    below = (number + 1 - 2 / size) * (square - trace.square() / size)
    share = (above / below.clamp(min=1e-30)).clamp(max=1) if size > 1 else trace.new_ones(())
    identity = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    return (1 - share) * covariance + (share * trace / size + 1e-9) * identity


def _diagonalise(within: Tensor, between: Tensor) -> tuple[Tensor, Tensor]:
    """The basis with unit W and diagonal B, and that diagonal, descending."""
    value, vector = torch.linalg.eigh(within)
    whiten = vector * value.clamp(min=float(value[-1]) * 1e-12).rsqrt()
    variance, turn = torch.linalg.eigh(whiten.mT @ between @ whiten)
    return (whiten @ turn).flip(1), variance.flip(0).clamp(min=1e-9)
