"""Where an image belongs that does not belong to its class."""

import torch
from torch import Tensor

from facetrain.clean.kept_centres import KeptCentres, kept_centres
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.relational import label_support, same_person_vote

_MARGIN = 0.05
_SLACK = 0.2
_LEAST_SUPPLIED = 3
_MOST_SUPPLIERS = 3
_NEARER = 0.25
_FITS = 0.5
_ROWS_AT_ONCE = 1 << 12


def suggest(labelled: LabelledSet, clean_probability: Tensor, kept: Tensor) -> Tensor:
    """The class that each image not kept seems to belong to, (num_images,); -1 for none.

    The class with the most votes among the image's global neighbours, under `home`'s conditions;
    kept images of the image's own class speak against it. Where the votes say nothing, the class
    where it is clearly at home when all classes look at once (`homes`); else the one of those that
    its class got most of its noise from. Costs K^2 for each image not kept and two passes over the
    kept embeddings.

    LFW, identities of 5 or more images under noise, the rest as they are, half of the identities as
    the cleaner's source, its own p > 0.5 as `kept` (classes of one image kept); precision, and
    recall among noise whose identity has kept images: uniform 20 % 0.997 / 0.923 (MobileFaceNet)
    and 0.997 / 0.892 (dlib), 40 % 0.998 / 0.871 and 0.998 / 0.781, structured 30 % 0.998 / 0.915
    and 0.998 / 0.887. Of 379 outliers, who have no home, 1 and 2 get one.

    Args:
        labelled: the set.
        clean_probability: (num_images,) belief in each label.
        kept: (num_images,) bool.
    """
    suggested = torch.full_like(labelled.label_of_row, -1)
    centres = kept_centres(labelled, kept)
    doubtful = torch.nonzero(~kept & (labelled.label_of_row >= 0))[:, 0]
    for row in torch.split(doubtful, _ROWS_AT_ONCE):
        suggested[row] = home(labelled, centres, row, clean_probability * kept, own_speaks=True)
    homes, class_id = labelled.homes, labelled.classes.class_id.to(suggested.device)
    stays = (homes.given >= 0) & ~homes.away
    place = homes.given.clamp(min=0)
    believed = torch.bincount(place[stays & kept], minlength=len(class_id))
    staying = torch.bincount(place[stays], minlength=len(class_id))
    clear = homes.clear & ~kept & (suggested < 0)
    clear &= (2 * believed > staying)[homes.place.clamp(min=0)]
    suggested = torch.where(clear, class_id[homes.place.clamp(min=0)], suggested)
    return _among_suppliers(labelled, suggested, kept)


def _among_suppliers(labelled: LabelledSet, suggested: Tensor, kept: Tensor) -> Tensor:
    """`suggested`, and for the doubtful that have none the supplier of their class that they fit.

    Noise of a class often comes from one or two other people, its suppliers: the classes to which
    at least _LEAST_SUPPLIED of its images are suggested. Which of 300 people a face in profile
    shows may be open where it is plain which of these two or three. So an image goes to a supplier
    whose centre is nearer than its own class's and every other supplier's by _NEARER of one
    person's cosine, and not below _FITS of it. Without these the hard images would be missing from
    what is trained on, which costs more than the wrong labels that remain (docs/log.md).

    Added on 6,000 rendered faces under 40 % structured noise, two sets: 390 and 398 right and 9 and
    17 wrong in a first round, 289 and 269, 1 and 9 in a third; on LFW features of 125 people under
    structured noise 9 and 8 right, none wrong; under uniform noise none.
    """
    class_id = labelled.classes.class_id.to(suggested.device)
    known = labelled.label_of_row >= 0
    place = torch.searchsorted(class_id, labelled.label_of_row.clamp(min=int(class_id[0])))
    goes = torch.searchsorted(class_id, suggested.clamp(min=int(class_id[0])))
    goes = goes.where(suggested >= 0, place)
    supplier = _suppliers(place[suggested >= 0], goes[suggested >= 0], len(class_id))  # (C, S)
    centre = torch.zeros_like(labelled.embedded.rows(place[:1])).repeat(len(class_id), 1)  # (C, D)
    for row in torch.split(torch.nonzero(known & (kept | (suggested >= 0)))[:, 0], _ROWS_AT_ONCE):
        centre.index_add_(0, goes[row], labelled.embedded.rows(row))
    centre = torch.nn.functional.normalize(centre)
    found = suggested.clone()
    doubtful = known & ~kept & (suggested < 0) & (supplier[place, 0] >= 0)
    for row in torch.split(torch.nonzero(doubtful)[:, 0], _ROWS_AT_ONCE):
        among = torch.cat([place[row][:, None], supplier[place[row]]], dim=1)  # (n, 1 + S)
        unit = labelled.embedded.rows(row)
        cosine = torch.einsum("nsd,nd->ns", centre[among.clamp(min=0)], unit)
        cosine = cosine.where(among >= 0, -1.0)
        (best, second), slot = cosine.topk(2, dim=1).values.unbind(1), cosine.argmax(1)
        person = labelled.scale.same
        plain = (slot > 0) & (best - second >= _NEARER * person) & (best >= _FITS * person)
        to = class_id[among.gather(1, slot[:, None])[:, 0]]
        found[row] = to.where(plain, -1)
    return found


def _suppliers(place: Tensor, goes: Tensor, num_classes: int) -> Tensor:
    """The classes to which most images of each are suggested, (C, _MOST_SUPPLIERS); -1 past them.

    Args:
        place: (n,) class of an image.
        goes: (n,) class suggested for it.
        num_classes: C.
    """
    pair, count = torch.unique(place * num_classes + goes, return_counts=True)
    pair, count = pair[count >= _LEAST_SUPPLIED], count[count >= _LEAST_SUPPLIED]
    order = count.argsort(descending=True, stable=True)
    order = order[(pair[order] // num_classes).argsort(stable=True)]  # by class, the largest first
    owner, supplier = pair[order] // num_classes, pair[order] % num_classes
    number = torch.bincount(owner, minlength=num_classes)
    rank = torch.arange(len(owner), device=owner.device) - (number.cumsum(0) - number)[owner]
    table = torch.full((num_classes, _MOST_SUPPLIERS), -1, device=place.device)
    first = rank < _MOST_SUPPLIERS
    table[owner[first], rank[first]] = supplier[first]
    return table


def home(
    labelled: LabelledSet, centres: KeptCentres, row: Tensor, weight: Tensor, *, own_speaks: bool
) -> Tensor:
    """The class other than their own where these images (n,) belong, (n,); -1 where unclear.

    A neighbour votes for its label by how much that is believed times how surely the two are one
    person. Votes alone do not do: forty strangers add up, and a large class has a few lookalikes
    of anybody. So two witnesses are asked for: the second nearest image of the class must be
    nearer, by _MARGIN, than any believed image of another class; and the image must fit, its mean
    level to the class no more than _SLACK below that of the class's own images. Of LFW images
    under dlib with 20 % outliers 3 are given a home wrongly; 8 without the fit, 27 without the
    margin.

    Args:
        labelled: the set.
        centres: of the kept images.
        row: places in the data set.
        weight: (num_images,) belief in each label; 0 takes an image's word away.
        own_speaks: whether images of their own class speak against another one.
    """
    cosine, neighbour = labelled.embedded.context(row)
    level = labelled.scale(cosine)  # (n, K)
    label = labelled.label_of_row[neighbour].where(neighbour >= 0, -1)
    own = label == labelled.label_of_row[row][:, None]
    heard = (label >= 0) & (weight[neighbour] > 0)
    alike = same_person_vote(level)
    support = label_support(label, (weight[neighbour] * alike).where(heard & ~own, 0.0))
    slot = support.where(heard & ~own, -1.0).argmax(1, keepdim=True)
    found = label.gather(1, slot)  # (n, 1)
    pro = heard & ~own & (label == found)
    contra = heard & (label != found) & (~own | own_speaks)
    second = level.where(pro & (pro.cumsum(1) > 1), -torch.inf).amax(1)
    nearest_contra = level.where(contra, -torch.inf).amax(1)
    class_id = labelled.classes.class_id.to(found.device)
    place = torch.searchsorted(class_id, found[:, 0].clamp(min=int(class_id[0])))
    fit = labelled.scale((labelled.embedded.rows(row) * centres.mean[place]).sum(1))
    usual = labelled.scale(centres.within)[place]
    certain = (second >= nearest_contra + _MARGIN) & (second > -torch.inf) & (fit >= usual - _SLACK)
    return found[:, 0].where(certain, -1)
