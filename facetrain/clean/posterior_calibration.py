"""How much the model's evidence and the GCN's weigh: logistic regression on planted noise."""

import math
from collections.abc import Sequence

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
"""Where the normal priors stand: at what sets of thousands of people come to. In a small set only
easy images look clean, so planted noise does not show how far off hard ones are."""
_PRIOR_IMAGES = (4.0, 10.0, 4.0)
"""Strength of the priors."""


def calibrate(
    draws: Sequence[LabelledSet], cleaner_logits: Sequence[Tensor | None], model: IdentityModel
) -> Calibration:
    """The temperature, the offset and the GCN's weight under which planted noise is most likely.

    Cross-entropy of the true class, or nobody where that is no candidate, over all images of all
    draws, at the classes' members as the posterior finds them; these depend on the three in turn,
    so twice.

    Args:
        draws: sets under noise that they know.
        cleaner_logits: (num_images,) of each, or None throughout.
    """
    found, alone = (
        Calibration(cleaner_weight=_USUAL.cleaner_weight),
        Mesh.single(model.basis.device),
    )
    for _ in range(_ROUNDS):
        sets = [
            Estimation(draw, model, found, logit, alone).run()
            for draw, logit in zip(draws, cleaner_logits, strict=True)
        ]
        found = _fit(sets, found)
    return found


def _true_slot(one: Estimation) -> Tensor:
    """Which candidate each image is of, (n,), the last for nobody."""
    labelled = one.labelled
    assert labelled.true_label is not None
    class_id = labelled.classes.class_id.to(one.place.device)
    true = labelled.true_label[one.row][:, None]
    right = (class_id[one.place.clamp(min=0)] == true) & (one.place >= 0)
    return torch.cat([right, ~right.any(1, keepdim=True)], 1).float().argmax(1)


def _fit(sets: Sequence[Estimation], start: Calibration) -> Calibration:
    device = sets[0].place.device
    truth = [_true_slot(one) for one in sets]
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

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights = Calibration(free[0].exp(), _OFFSET_UNIT * free[1], free[2])  # type: ignore[arg-type]
        total = sum(
            cross_entropy(one.log_odds(weights), slot, reduction="sum")
            for one, slot in zip(sets, truth, strict=True)
        )
        # Separable draws would have all of them grow without end.
        total = total + 0.5 * (strength * (free - origin).square()).sum()
        mean = total / max(sum(map(len, truth)), 1)
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    temperature, offset, weight = free.detach().tolist()
    return Calibration(math.exp(temperature), _OFFSET_UNIT * offset, max(weight, 0.0))
