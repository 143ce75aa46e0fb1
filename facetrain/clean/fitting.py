"""Which identity model describes a set: fitted on the set's believed images, or on the source's."""

import torch
from torch import Tensor

from facetrain.clean.identity_model import IdentityModel, fit_identities
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.posterior import Calibration, posterior
from facetrain.core.rng import torch_generator
from facetrain.dist.mesh import Mesh

_ROUNDS = 2
_MOST_IMAGES = 100_000
"""That W and B are fitted on, whole classes drawn at random; half changes nothing."""
_UNFITTED = Calibration(temperature=0.5)
"""How the evidence weighs while the model itself is being fitted."""


def fit_to(labelled: LabelledSet, weight: Tensor, classes: Tensor | None = None) -> IdentityModel:
    """The model of some classes (places), of all, weighing each image (num_images,) by belief."""
    if classes is None:
        classes = torch.arange(labelled.classes.num_classes)
    order = torch.randperm(len(classes), generator=torch_generator(0, "identity model"))
    chosen = classes[order]
    images = labelled.classes.size[chosen].cumsum(0)
    graphs = labelled.classes.subset(chosen[(images <= _MOST_IMAGES) | (images == images[0])])
    graphs = graphs.to(labelled.embedded.device)
    unit = labelled.embedded.rows(graphs.row)
    return fit_identities(unit, graphs.label, weight[graphs.row]).model


def fit_unsupervised(labelled: LabelledSet, mesh: Mesh) -> tuple[IdentityModel, Tensor]:
    """A model of a set whose labels are noisy, and the belief in each label (num_images,).

    Begun at belief in every label: the wrong ones widen W, and yet are what fits worst under it.
    """
    belief = labelled.certain()
    for _ in range(_ROUNDS):
        model = fit_to(labelled, belief)
        belief = posterior(labelled, model, _UNFITTED, None, mesh).probability[:, 0]
    return fit_to(labelled, belief), belief


@torch.no_grad()
def describes_better(other: IdentityModel, labelled: LabelledSet, belief: Tensor) -> bool:
    """Whether `other` gives the believed images a higher likelihood than a model of their own.

    Judged on half of the classes, each image given its class's others; the own model is fitted on
    the other half. Under another embedding, `other` is off by hundreds of nats an image.
    """
    if len(other.between) != labelled.embedded.size:
        return False
    order = torch.randperm(labelled.classes.num_classes, generator=torch_generator(0, "halves"))
    half = len(order) // 2
    if half < 2:
        return True
    own = fit_to(labelled, belief, order[:half])
    graphs = labelled.classes.subset(order[half:]).to(labelled.embedded.device)
    weight, unit = belief[graphs.row], labelled.embedded.rows(graphs.row)
    scores = []
    for model in (other.to(unit.device), own):
        z = unit @ model.basis
        precision = graphs.sum(weight)
        total = graphs.sum(weight[:, None] * z)
        rest = (precision[graphs.label] - weight).clamp(min=0)
        likelihood = model.log_likelihood(z, rest, total[graphs.label] - weight[:, None] * z)
        volume = torch.linalg.slogdet(model.basis.double())[1]
        scores.append(float((weight * (likelihood.logsumexp(1) + volume)).sum()))
    return scores[0] > scores[1]
