"""How much the model's evidence and the GCN's weigh: logistic regression on planted noise."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.posterior import Calibration, Estimation
from facetrain.dist.mesh import Mesh

_ROUNDS = 2
_STEPS = 50
_OFFSET_UNIT = 10.0  # nats
_USUAL = Calibration(temperature=0.25, offset=10.0, cleaner_weight=0.5)
"""Where the normal priors stand: two embeddings with thousands of people come to temperatures of
0.23 and 0.29 and offsets of 8 and 12. In a small set only images that are easy are believed, so
planted noise does not show how far off hard ones are: around no offset F1 is up to 0.007 less."""
_PRIOR_IMAGES = (4.0, 10.0, 4.0)
"""Strength of the priors. With ten times as much of the offset's, F1 on the embeddings of a network
that learned the noise is 0.005 less: there the labels fit better than noise that is planted."""


class Draw(NamedTuple):
    """A set under planted noise, and what the GCN says of it."""

    labelled: LabelledSet
    true_label: Tensor  # (num_images,) whose the images are
    cleaner_logit: Tensor | None  # (num_images,)


def calibrate(draws: Sequence[Draw], model: IdentityModel, mesh: Mesh) -> Calibration:
    """The temperature, the offset and the GCN's weight under which planted noise is most likely.

    Cross-entropy of the true class, or nobody where that is no candidate, over all images of all
    draws, at the classes' members as the posterior finds them; these depend on the three in turn,
    so twice.
    """
    with_cleaner = draws[0].cleaner_logit is not None
    found = Calibration(cleaner_weight=0.5 if with_cleaner else 0.0)
    for _ in range(_ROUNDS):
        with torch.no_grad():
            sets = [
                (Estimation(d.labelled, model, found, d.cleaner_logit, mesh).run(), d)
                for d in draws
            ]
        found = _fit([_Case.of(one, draw) for one, draw in sets], found, with_cleaner)
    return found


class _Case(NamedTuple):
    estimation: Estimation
    logit: Tensor | None
    truth: Tensor  # (n,) slot of the true class among the candidates, the last for nobody

    @classmethod
    def of(cls, estimation: Estimation, draw: Draw) -> "_Case":
        row, place = estimation.row, estimation.place
        logit = None if draw.cleaner_logit is None else draw.cleaner_logit[row]
        class_id = draw.labelled.classes.class_id.to(place.device)
        right = (class_id[place.clamp(min=0)] == draw.true_label[row][:, None]) & estimation.real
        nobody = ~right.any(1, keepdim=True)
        return cls(estimation, logit, torch.cat([right, nobody], 1).float().argmax(1))


def _fit(cases: Sequence[_Case], start: Calibration, with_cleaner: bool) -> Calibration:
    device = cases[0].truth.device
    free, origin = (
        torch.tensor(
            [math.log(one.temperature), one.offset / _OFFSET_UNIT, one.cleaner_weight],
            device=device,
        )
        for one in (start, _USUAL)
    )
    free.requires_grad_()
    strength = torch.tensor(_PRIOR_IMAGES, device=device)
    optimizer = torch.optim.LBFGS([free], max_iter=_STEPS, line_search_fn="strong_wolfe")
    number = sum(len(case.truth) for case in cases)

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights = Calibration(
            free[0].exp(), _OFFSET_UNIT * free[1], free[2] if with_cleaner else 0.0  # type: ignore[arg-type]
        )  # fmt: skip
        total = torch.zeros((), device=device)
        for case in cases:
            odds = case.estimation.terms.log_odds(weights, case.logit)
            total = total + cross_entropy(odds, case.truth, reduction="sum")
        # Separable draws would have all of them grow without end.
        away = free - origin
        mean = (total + 0.5 * (strength * away.square()).sum()) / max(number, 1)
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    temperature, offset, weight = free.detach().tolist()
    weight = max(weight, 0.0) if with_cleaner else 0.0
    return Calibration(math.exp(temperature), _OFFSET_UNIT * offset, weight)
