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
_AT_ONCE = 1 << 14
_STRANGERS, _LITTLE = 0.99, 0.05
"""Share of strangers that an image has to be nearer than, and belief in one that is not. With 0.95
F1 on sets without a source is the same to 0.003; with 0.9 it loses 0.05 on 200 images."""
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

    Begun at the images that agree with their classes: in a small set wrong ones would widen W until
    they fit.
    """
    belief = agreeing(labelled)
    for _ in range(_ROUNDS):
        model = fit_to(labelled, belief)
        belief = posterior(labelled, model, _UNFITTED, None, mesh).probability[:, 0]
    return fit_to(labelled, belief), belief


@torch.no_grad()
def agreeing(labelled: LabelledSet) -> Tensor:
    """Belief (num_images,), 1 for images nearer to the others of their class than strangers are.

    Than 99 of 100 are, by cosine to the mean of another class drawn for each image. An image that
    is alone in its class is believed; others little.
    """
    device = labelled.embedded.device
    graphs = labelled.classes.to(device)
    parts = torch.split(torch.arange(graphs.num_nodes, device=device), _AT_ONCE)
    total = torch.zeros(graphs.num_classes, labelled.embedded.size, device=device)
    for node in parts:
        total.index_add_(0, graphs.label[node], labelled.embedded.rows(graphs.row[node]))
    turn = torch.randperm(graphs.num_nodes, generator=torch_generator(0, "strangers")).to(device)
    cosines = []
    for node in parts:
        unit, own, other = (
            labelled.embedded.rows(graphs.row[node]),
            graphs.label[node],
            graphs.label[turn[node]],
        )
        ways = torch.stack([total[own] - unit, total[other]])  # (2, n, D)
        cosine = (torch.nn.functional.normalize(ways, dim=2) * unit).sum(2)
        cosines.append(torch.stack([cosine[0], cosine[1].where(own != other, -1.0)]))
    inside, outside = torch.cat(cosines, 1)
    strangers = outside[outside > -1].sort().values
    belief = labelled.certain()
    if len(strangers):
        level = strangers[int(_STRANGERS * (len(strangers) - 1))]
        agrees = (inside > level) | (graphs.size == 1)[graphs.label]
        belief[graphs.row] = torch.where(agrees, 1.0, _LITTLE)
    return belief


@torch.no_grad()
def describes_better(other: IdentityModel, labelled: LabelledSet, belief: Tensor) -> bool:
    """Whether `other` gives the believed images a higher likelihood than a model of their own.

    Measured on half of the classes, each image given its class's others; the own model is fitted on
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
