"""Whose image it is: a posterior over the given label, its neighbours' labels, and nobody.

For image i labelled g, over c in {g} u {labels of its nearest images} u {nobody},

    r_ig ~ prior(g, g) exp(temperature (LLR_ig + offset) + cleaner_weight logit p_i),
    r_ic ~ prior(g, c) exp(temperature LLR_ic) for any other c,

LLR_ic = log p(z_i | c) - log p(z_i | nobody) with the image itself left out of c, p_i the GCN's
probability relative to its class's threshold. One scale for a class of one image and of five
hundred. The classes' members and the priors are estimated together with r: EM, damped.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.core.progress import progress
from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range

NUM_CANDIDATES = 8
"""Classes that an image is compared with, its own among them; the nearest others first."""
_PASSES = 6
_DAMPING = 0.5
_PRIOR_IMAGES = 16
"""How many images of the set's own noise rate a class's noise rate is smoothed with."""
_NUMBERS_AT_ONCE = 1 << 18
_ON_GPU = 64
"""Times as many on a GPU, which wants few launches."""
_AT_ONCE, _CANDIDATES_AT_ONCE = 1 << 12, 1 << 8
_LEAST, _NEVER = 1e-3, -1e9


class Calibration(NamedTuple):
    """What turns the model's evidence into odds, fitted on planted noise: see `calibrate`."""

    temperature: float = 0.2
    """Below 1, since the D dimensions of an embedding are not independent. One for all labels: with
    another for the given one, images would go where they fit less."""
    offset: float = 0.0
    """Of the given label against all else: hard images are further off than the model has them."""
    cleaner_weight: float = 0.0
    """Of the GCN's logit."""


class Members(NamedTuple):
    """Sufficient statistics of the identities of classes, by sums: n (C,) and t (C, D)."""

    precision: Tensor
    total: Tensor

    @classmethod
    def none(cls, num_classes: int, model: IdentityModel) -> "Members":
        """Classes without images, to be added to."""
        zeros = model.between.new_zeros(num_classes, len(model.between))
        return cls(zeros[:, 0].clone(), zeros)

    def add(self, place: Tensor, counts: Tensor, z: Tensor) -> None:
        """Images z (n, D) that count so much (n,) in these classes (n,)."""
        self.precision.index_add_(0, place, counts)
        self.total.index_add_(0, place, counts[:, None] * z)

    def without(self, place: Tensor, counts: Tensor, z: Tensor) -> "Members":
        """These classes (...,) less an image z (..., D) each that counts so much (...,) in it."""
        precision = (self.precision[place] - counts).clamp(min=0)
        return Members(precision, self.total[place] - counts[..., None] * z)


class Posterior(NamedTuple):
    """Whose each image of a set is by a model of it; absent ones hold -1 and zeros."""

    labelled: LabelledSet
    model: IdentityModel
    calibration: Calibration
    place: Tensor  # (num_images, M) classes compared with, the given first, -1 past the last
    probability: Tensor  # (num_images, M)
    nobody: Tensor  # (num_images,)
    hard: Tensor  # (num_images,) above 1/2 where LLR is below the offset: far off its class
    own_ratio: Tensor  # (num_images,) LLR of the given label
    counts: Tensor  # (num_images,) in its class's precision and total, if it is of it

    def z(self, row: Tensor) -> Tensor:
        """Images (...,) in the model's basis, (..., D)."""
        return self.labelled.embedded.rows(row) @ self.model.basis

    def members(self, row: Tensor, place: Tensor, counts: Tensor, num_classes: int) -> Members:
        """Of images (n,) that count so much (n,) in these classes (n,)."""
        members = Members.none(num_classes, self.model)
        for part in torch.split(torch.arange(len(row), device=row.device), _AT_ONCE):
            members.add(place[part], counts[part], self.z(row[part]))
        return members

    def members_by_label(self, place: Tensor) -> Members:
        """Those of the images under each label, the most likely ones in full.

        Unlike those of the estimation, which an image leaves for where it seems to belong: whether
        two labels are one person is asked of those who carry them.

        Args:
            place: (num_images,) the class that each image counts for, -1 for none.
        """
        row = torch.nonzero(place >= 0)[:, 0]
        place, own = place[row], self.probability[row, 0]
        best = own.new_zeros(len(self.labelled.size)).scatter_reduce(0, place, own, "amax")
        counts = own / best[place].clamp(min=1e-6) * self.counts[row]
        return self.members(row, place, counts, len(best))


class Estimation:
    """EM between who an image is of, who is in a class, and how noisy the labels are.

    Each rank holds a share of the images; the classes' members are sums over all ranks. In a class
    of two neither image has a majority: the first is taken for the owner to begin with, so that two
    people who changed places in two classes of two find their way.

    Args:
        labelled: C classes.
        model: of their embeddings, on their device.
        calibration: how the evidence weighs.
        cleaner_logit: (num_images,) 0 where the GCN does not judge; None without a GCN.
        mesh: whose ranks share the work.
    """

    def __init__(
        self,
        labelled: LabelledSet,
        model: IdentityModel,
        calibration: Calibration,
        cleaner_logit: Tensor | None,
        mesh: Mesh,
    ) -> None:
        self.labelled = labelled
        self._model, self._calibration, self._mesh = model, calibration, mesh
        present = torch.nonzero(labelled.place_of_row >= 0)[:, 0]
        share = slice(*shard_range(len(present), mesh.rank, mesh.world_size))
        self.row = row = present[share]  # (n,) this rank's images
        self.place = place = candidates(labelled, row)  # (n, M)
        given, device = place[:, 0], row.device
        first = labelled.classes.row.to(device)[labelled.classes.start[:-1].to(device)]
        second = (labelled.size[given] == 2) & (row != first[given])
        self.responsibility = torch.zeros(place.shape, device=device)  # r, damped
        self.responsibility[:, 0] = (~second).float()
        self._weight = torch.ones_like(self.responsibility)  # by quality, in n and t
        self.ratio = torch.zeros_like(self.responsibility)  # LLR
        self._filled = torch.zeros(len(row), device=device)  # in [0, 1], has the class others?
        none = torch.zeros_like(self._filled)
        self._logit = none if cleaner_logit is None else cleaner_logit[row]
        self.probability = torch.zeros(len(row), place.shape[1] + 1, device=device)
        self._nobody_share = 0.3
        self._class_rate = torch.full((labelled.classes.num_classes,), 0.2, device=device)
        members = Members.none(labelled.classes.num_classes, model)
        for block, z in self._blocks("first"):
            self._add(block, z, members)
        self.members = Members(*(all_reduce_sum(one, mesh) for one in members))

    @torch.no_grad()
    def run(self) -> "Estimation":
        """All passes."""
        for number in range(_PASSES):
            self._pass(number)
        return self

    def log_odds(self, weights: Calibration, of: slice = slice(None)) -> Tensor:
        """Unnormalised log posterior of the candidates and of nobody, (n, M + 1)."""
        own = weights.temperature * weights.offset * self._filled[of]
        own = own + weights.cleaner_weight * self._logit[of]
        evidence = pad(weights.temperature * self.ratio[of], (0, 1))
        return self._prior[of] + evidence + pad(own[:, None], (0, evidence.shape[1] - 1))

    def _pass(self, number: int) -> None:
        model, before = self._model, self.members
        after = Members.none(len(before.precision), model)
        self._prior = self._log_prior()
        # Most candidates are without the image as they are, so their volume is the class's own.
        volume = torch.cat([model.volume(n) for n in torch.split(before.precision, _AT_ONCE)])
        for block, z in self._blocks(f"pass {number + 1}"):
            counts = self._counts(block)
            at = self.place[block].clamp(min=0)
            others = before.without(at, counts, z[:, None])
            without, inside = volume[at], counts > 0  # (n, M, J), (n, M)
            without[inside] = model.volume(others.precision[inside])
            found = model.log_likelihood(z[:, None], *others, without)  # (n, M, J)
            self.ratio[block] = found.logsumexp(-1) - model.log_anybody(z)[:, None]
            self._filled[block] = others.precision[:, 0].clamp(max=1)
            self._weight[block] = model.weight(found.softmax(-1))
            self.probability[block] = self.log_odds(self._calibration, block).softmax(1)
            new = self.probability[block, :-1]
            damping = _DAMPING if number else 0.0
            old = self.responsibility[block]
            self.responsibility[block] = damping * old + (1 - damping) * new
            self._add(block, z, after)
        self.members = Members(*(all_reduce_sum(one, self._mesh) for one in after))
        self._learn_rates()

    def _log_prior(self) -> Tensor:
        """Of the given label, each other candidate and nobody, (n, M + 1)."""
        wrong = self._class_rate[self.place[:, 0]].clamp(1e-4, 1 - 1e-4)[:, None]  # (n, 1)
        others = max(self.labelled.classes.num_classes - 1, 1)
        other = (wrong * (1 - self._nobody_share) / others).log()
        nobody = (wrong * self._nobody_share).log()
        prior = torch.cat([other.where(self.place >= 0, _NEVER), nobody], 1)
        prior[:, :1] = (1 - wrong).log()
        prior[self.labelled.verified[self.row], 0] = -_NEVER
        return prior

    def _learn_rates(self) -> None:
        """The noise rate of the set and of its classes, and the share of nobody in it."""
        wrong = 1 - self.probability[:, 0]
        of_class = torch.zeros_like(self._class_rate).index_add_(0, self.place[:, 0], wrong)
        sums = torch.stack([wrong.sum(), self.probability[:, -1].sum()])
        of_class, sums = all_reduce_sum(of_class, self._mesh), all_reduce_sum(sums, self._mesh)
        rate = (sums[0] / self.labelled.classes.num_nodes).clamp(1e-3, 0.6)
        self._nobody_share = float((sums[1] / sums[0].clamp(min=1e-6)).clamp(0.02, 0.98))
        self._class_rate = (of_class + _PRIOR_IMAGES * rate) / (self.labelled.size + _PRIOR_IMAGES)

    def _blocks(self, what: str) -> Iterator[tuple[slice, Tensor]]:
        """Runs of this rank's images whose products fit into a cache, in the model's basis."""
        per_image = self.place.shape[1] * len(self._model.between)
        many = _ON_GPU if self.row.is_cuda else 1
        step = max(1, many * _NUMBERS_AT_ONCE // per_image)
        starts = range(0, len(self.row), step)
        label, shown = f"clean: posterior, {what}", self._mesh.is_main and len(starts) > 200
        for start in progress(starts, label, unit="block", enabled=shown):
            block = slice(start, start + step)
            yield block, self.labelled.embedded.rows(self.row[block]) @ self._model.basis

    def _counts(self, block: slice) -> Tensor:
        """What each image of the block counts in each of its candidates, (n, M)."""
        r = self.responsibility[block]
        return r.where((self.place[block] >= 0) & (r > _LEAST), 0.0) * self._weight[block]

    def _add(self, block: slice, z: Tensor, members: Members) -> None:
        counts = self._counts(block)
        image, slot = torch.nonzero(counts, as_tuple=True)
        members.add(self.place[block][image, slot], counts[image, slot], z[image])

    def posterior(self) -> Posterior:
        """Whose each image is, of all ranks."""

        def whole(value: Tensor) -> Tensor:
            full = value.new_zeros(self.labelled.embedded.num_images, *value.shape[1:])
            full[self.row] = value
            return all_reduce_sum(full, self._mesh)

        return Posterior(
            self.labelled, self._model, self._calibration,
            place=whole(self.place + 1) - 1,
            probability=whole(self.probability[:, :-1]),
            nobody=whole(self.probability[:, -1]),
            # Its label has been believed for the head start rather than for what it looks like; an
            # image without others of its class looks like nobody.
            hard=whole(self._filled * (self.ratio[:, 0] < self._calibration.offset)),
            own_ratio=whole(self.ratio[:, 0]),
            counts=whole(self._weight[:, 0]),
        )  # fmt: skip


def candidates(labelled: LabelledSet, row: Tensor) -> Tensor:
    """Classes that these images (n,) may be of, (n, NUM_CANDIDATES): places, -1 past the last.

    Its own first, then those of its nearest images, the nearest first.
    """
    found = torch.full((len(row), NUM_CANDIDATES), -1, device=row.device)
    for number in torch.split(torch.arange(len(row), device=row.device), _CANDIDATES_AT_ONCE):
        neighbour = labelled.embedded.context(row[number])[1]  # (n, K)
        place = labelled.place_of_row[neighbour.clamp(min=0)].where(neighbour >= 0, -1)
        own = labelled.place_of_row[row[number]][:, None]
        earlier = torch.ones(2 * (place.shape[1],), dtype=torch.bool, device=row.device).tril(-1)
        again = ((place[:, :, None] == place[:, None, :]) & earlier).any(2)
        new = (place >= 0) & (place != own) & ~again
        rank = new.cumsum(1)
        image, slot = (new & (rank < NUM_CANDIDATES)).nonzero(as_tuple=True)
        found[number, :1] = own
        found[number[image], rank[image, slot]] = place[image, slot]
    return found
