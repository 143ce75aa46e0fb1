"""Which identity model describes a set: fitted on the set itself, or on the source's."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facetrain.clean.identity_model import IdentityModel, fit_identities
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.posterior import Calibration, Estimation, Members
from facetrain.core.rng import torch_generator
from facetrain.dist.mesh import Mesh

_ROUNDS = 2
_MOST_IMAGES = 100_000
"""That W and B are fitted on, whole classes drawn at random; half changes nothing."""
_AT_ONCE = 1 << 14
_STRANGERS, _LITTLE = 0.99, 0.05
"""Share of strangers that an image has to be nearer than, and the weight of one that is not."""
_UNFITTED = Calibration(temperature=0.5)
"""How the evidence weighs while the model itself is being fitted."""


def fit_to(labelled: LabelledSet, weight: Tensor, classes: Tensor | None = None) -> IdentityModel:
    """The model of some classes (places), of all, weighing each image (num_images,)."""
    chosen = labelled.some(classes, _MOST_IMAGES, 0, "identity model")
    graphs = labelled.classes.subset(chosen).to(labelled.embedded.device)
    unit = labelled.embedded.rows(graphs.row)
    return fit_identities(unit, graphs.label, weight[graphs.row])[0]


def fit_unsupervised(labelled: LabelledSet, mesh: Mesh) -> tuple[IdentityModel, Tensor]:
    """A model of a set whose labels are noisy, and each label's probability (num_images,).

    Begun at the images that agree with their classes: wrong ones would widen W until they fit.
    """
    weight = agreeing(labelled)
    for _ in range(_ROUNDS):
        model = fit_to(labelled, weight)
        found = Estimation(labelled, model, _UNFITTED, None, mesh).run().posterior()
        weight = found.probability[:, 0]
    return fit_to(labelled, weight), weight


@torch.no_grad()
def agreeing(labelled: LabelledSet) -> Tensor:
    """Weight (num_images,), 1 for images nearer to the others of their class than strangers are.

    Than 99 of 100 are, by cosine to the sum of another class drawn for each image. An image that is
    alone in its class has weight 1 as well; the others have little.
    """
    embedded = labelled.embedded
    graphs = labelled.classes.to(embedded.device)
    parts = torch.split(torch.arange(graphs.num_nodes, device=embedded.device), _AT_ONCE)
    total = torch.zeros(graphs.num_classes, embedded.size, device=embedded.device)
    for node in parts:
        total.index_add_(0, graphs.label[node], embedded.rows(graphs.row[node]))
    turn = torch.randperm(graphs.num_nodes, generator=torch_generator(0, "strangers")).to(node)
    cosines = []
    for node in parts:
        unit = embedded.rows(graphs.row[node])
        own, other = total[graphs.label[node]] - unit, total[graphs.label[turn[node]]]
        cosines.append((normalize(torch.stack([own, other]), dim=2) * unit).sum(2))  # (2, n)
    inside, outside = torch.cat(cosines, 1)
    strangers = outside[graphs.label != graphs.label[turn]].sort().values
    weight = labelled.ones()
    if len(strangers):
        level = strangers[int(_STRANGERS * (len(strangers) - 1))]
        agrees = (inside > level) | (graphs.size == 1)[graphs.label]
        weight[graphs.row] = torch.where(agrees, 1.0, _LITTLE)
    return weight


@torch.no_grad()
def likelier(other: IdentityModel, labelled: LabelledSet, weight: Tensor) -> bool:
    """Whether `other` gives held-out images a higher likelihood than a model of the set's own.

    On half of the classes, each image given its class's others; the own model is fitted on the
    other half. Under another embedding, `other` is off by hundreds of nats an image.

    Args:
        weight: (num_images,) each label's probability.
    """
    if len(other.between) != labelled.embedded.size:
        return False
    order = torch.randperm(labelled.classes.num_classes, generator=torch_generator(0, "halves"))
    half = len(order) // 2
    if half < 2:
        return True
    own = fit_to(labelled, weight, order[:half])
    graphs = labelled.classes.subset(order[half:]).to(labelled.embedded.device)
    counts, unit = weight[graphs.row], labelled.embedded.rows(graphs.row)

    def score(model: IdentityModel) -> float:
        z = unit @ model.basis
        members = Members.none(graphs.num_classes, model)
        members.add(graphs.label, counts, z)
        likelihood = model.log_likelihood(z, *members.without(graphs.label, counts, z))
        volume = torch.linalg.slogdet(model.basis.double())[1]
        return float((counts * (likelihood.logsumexp(1) + volume)).sum())

    return score(other) > score(own)
