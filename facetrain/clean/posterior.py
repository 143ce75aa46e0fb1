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
_CLASSES_AT_ONCE = 1 << 12
_LEAST, _NEVER = 1e-3, -1e9
_HARD = 2.0  # spread from which an image is a hard one of its identity


class Calibration(NamedTuple):
    """What turns the model's evidence into odds; fitted on planted noise (`calibration.py`)."""

    temperature: float = 0.2
    """Below 1, since the D dimensions of an embedding are not independent. One for all labels: with
    another for the given one, images would go where they fit less."""
    offset: float = 0.0
    """Of the given label against all else: hard images are further off than the model has them."""
    cleaner_weight: float = 0.0
    """Of the GCN's logit."""


class Terms(NamedTuple):
    """What the odds of n images are made of."""

    given: Tensor  # (n,) log prior of the given label
    other: Tensor  # (n,) of each other class
    nobody: Tensor  # (n,)
    ratio: Tensor  # (n, M) LLR to each candidate, the given first
    filled: Tensor  # (n,) in [0, 1], whether the given label has other images at all
    real: Tensor  # (n, M) bool, False past the last candidate

    def log_odds(self, calibration: Calibration, cleaner_logit: Tensor | None) -> Tensor:
        """Unnormalised log posterior of the candidates and of nobody, (n, M + 1)."""
        score = self.other[:, None] + calibration.temperature * self.ratio
        own = self.ratio[:, 0] + calibration.offset * self.filled
        given = self.given + calibration.temperature * own
        if cleaner_logit is not None:
            given = given + calibration.cleaner_weight * cleaner_logit
        score = torch.cat([given[:, None], score[:, 1:], self.nobody[:, None]], 1)
        absent = torch.cat([~self.real, torch.zeros_like(self.real[:, :1])], 1)
        return score.masked_fill(absent, _NEVER)


class Members(NamedTuple):
    """What a class's images say of its identity: n (C,) and t (C, D)."""

    precision: Tensor
    total: Tensor


class Posterior(NamedTuple):
    """The answer for all images; absent ones hold -1 and zeros."""

    place: Tensor  # (num_images, M) classes compared with, the given first, -1 past the last
    probability: Tensor  # (num_images, M)
    nobody: Tensor  # (num_images,)
    hard: Tensor  # (num_images,) that it is no usual image of the class it is labelled with
    own_ratio: Tensor  # (num_images,) LLR of the given label
    counts: Tensor  # (num_images,) in its class's precision and total, if it is of it
    members: Members


class Estimation:
    """EM between who an image is of, who is in a class, and how noisy the labels are.

    Each rank holds a share of the images; the classes' members are sums over all ranks. In a class
    of two neither image has a majority: the first is taken for the owner to begin with, so that two
    people who changed places in two classes of two find their way.

    Args:
        labelled: C classes.
        model: of their embeddings.
        calibration: how the evidence weighs.
        cleaner_logit: (num_images,) 0 where the GCN has no say; None where there is no GCN.
        mesh: whose ranks share the work.
        confirmed: (num_images,) bool, whose label a person has confirmed.
    """

    def __init__(
        self,
        labelled: LabelledSet,
        model: IdentityModel,
        calibration: Calibration,
        cleaner_logit: Tensor | None,
        mesh: Mesh,
        confirmed: Tensor | None = None,
    ) -> None:
        self._labelled, self._calibration, self._mesh = labelled, calibration, mesh
        self._model = model = model.to(labelled.embedded.device)
        present = torch.nonzero(labelled.place_of_row >= 0)[:, 0]
        start, stop = shard_range(len(present), mesh.rank, mesh.world_size)
        self.row = row = present[start:stop]  # (n,) this rank's images
        self._logit = None if cleaner_logit is None else cleaner_logit[row]
        self.place = candidates(labelled, row)  # (n, M)
        self._confirmed = None if confirmed is None else confirmed[row]
        self.real = self.place >= 0
        self.belief = torch.zeros(self.place.shape, device=row.device)  # r, damped
        size = labelled.classes.size.to(row.device)
        given = self.place[:, 0]
        first = labelled.classes.row.to(row.device)[labelled.classes.start[:-1].to(row.device)]
        second = (size[given] == 2) & (row != first[given])
        self.belief[:, 0] = (~second).float()
        self.quality = torch.zeros(*self.place.shape, len(model.share), device=row.device)
        self.quality[..., 0] = 1
        shape = (labelled.classes.num_classes, len(model.between))
        self.members = Members(torch.zeros(shape[0], device=row.device),
                               torch.zeros(shape, device=row.device))  # fmt: skip
        self._num_images = labelled.classes.num_nodes
        self._rate, self._nobody_share = 0.2, 0.3
        self._wrong = torch.zeros(shape[0], device=row.device)  # (C,) expected wrong labels
        self._size = size
        for block in self._blocks("first"):
            self._add(block, self._basis(block), self.members)
        self._share(self.members)

    def run(self) -> "Estimation":
        """All passes."""
        for number in range(_PASSES):
            self._pass(number)
        return self

    def _pass(self, number: int) -> None:
        model, before = self._model, self.members
        after = Members(torch.zeros_like(before.precision), torch.zeros_like(before.total))
        rate = (self._wrong + _PRIOR_IMAGES * self._rate) / (self._size + _PRIOR_IMAGES)
        if number == 0:
            rate = torch.full_like(rate, self._rate)
        given = self.place[:, 0]
        wrong = rate[given].clamp(1e-4, 1 - 1e-4)  # (n,)
        others = max(self._labelled.classes.num_classes - 1, 1)
        prior = (1 - wrong).log(), (wrong * (1 - self._nobody_share) / others).log()
        ratio, filled = torch.zeros_like(self.belief), torch.zeros_like(wrong)
        hard = torch.zeros_like(wrong)
        # Most candidates are without the image as they are, so their volume is the class's own.
        volume = torch.cat(
            [model.volume(n) for n in torch.split(before.precision, _CLASSES_AT_ONCE)]
        )
        volume_of_anybody = model.volume(before.precision.new_zeros(()))
        for block in self._blocks(f"pass {number + 1}"):
            z = self._basis(block)
            counts = self._counts(block)
            at = self.place[block].clamp(min=0)
            precision = (before.precision[at] - counts).clamp(min=0)
            total = before.total[at] - counts[..., None] * z[:, None]
            without, inside = volume[at], counts > 0  # (n, M, J), (n, M)
            without[inside] = model.volume(precision[inside])
            found = model.log_likelihood(z[:, None], precision, total, without)  # (n, M, J)
            nothing = torch.zeros_like(precision[:, 0])
            anybody = model.log_likelihood(z, nothing, torch.zeros_like(z), volume_of_anybody)
            ratio[block] = found.logsumexp(-1) - anybody.logsumexp(-1)[:, None]
            filled[block] = precision[:, 0].clamp(max=1)
            quality = found.softmax(-1)
            hard[block] = quality[:, 0, model.spread >= _HARD].sum(1)
            terms = Terms(
                prior[0][block], prior[1][block], (wrong[block] * self._nobody_share).log(),
                ratio[block], filled[block], self.real[block],
            )  # fmt: skip
            logit = None if self._logit is None else self._logit[block]
            odds = terms.log_odds(self._calibration, logit)
            belief = self._certain(odds, block).softmax(1)[:, :-1]
            damping = _DAMPING if number else 0.0
            self.belief[block] = damping * self.belief[block] + (1 - damping) * belief
            self.quality[block] = quality
            self._add(block, z, after)
        self._share(after)
        self.members, self.hard = after, hard
        nobody = (wrong * self._nobody_share).log()
        self.terms = Terms(*prior, nobody, ratio, filled, self.real)
        odds = self.terms.log_odds(self._calibration, self._logit)
        odds = self._certain(odds, slice(None)).softmax(1)
        self.probability = odds  # (n, M + 1)
        self._learn_rates(odds)

    def _certain(self, odds: Tensor, block: slice) -> Tensor:
        """The same, with what a person has confirmed beyond doubt."""
        if self._confirmed is not None:
            odds[self._confirmed[block], 0] = -_NEVER
        return odds

    def _learn_rates(self, odds: Tensor) -> None:
        """The noise rate of the set and of its classes, and the share of nobody in it."""
        wrong = 1 - odds[:, 0]
        count = torch.zeros_like(self._wrong).index_add_(0, self.place[:, 0], wrong)
        sums = torch.stack([wrong.sum(), odds[:, -1].sum()])
        self._wrong, sums = all_reduce_sum(count, self._mesh), all_reduce_sum(sums, self._mesh)
        self._rate = float((sums[0] / self._num_images).clamp(1e-3, 0.6))
        self._nobody_share = float((sums[1] / sums[0].clamp(min=1e-6)).clamp(0.02, 0.98))

    def _blocks(self, what: str) -> Iterator[slice]:
        """Runs of this rank's images whose products fit into a cache."""
        per_image = self.place.shape[1] * len(self._model.between)
        many = _ON_GPU if self.row.is_cuda else 1
        step = max(1, many * _NUMBERS_AT_ONCE // per_image)
        starts = range(0, len(self.row), step)
        shown = self._mesh.is_main and len(starts) > 200
        for start in progress(
            starts, f"clean: posterior, {what}", total=len(starts), unit="block", enabled=shown
        ):
            yield slice(start, min(start + step, len(self.row)))

    def _basis(self, block: slice) -> Tensor:
        return self._labelled.embedded.rows(self.row[block]) @ self._model.basis

    def _counts(self, block: slice) -> Tensor:
        """What each image of the block counts in each of its candidates, (n, M)."""
        belief = self.belief[block]
        belief = torch.where(self.real[block] & (belief > _LEAST), belief, 0.0)
        return belief * self._model.weight(self.quality[block])

    def _add(self, block: slice, z: Tensor, members: Members) -> None:
        counts = self._counts(block)
        image, slot = torch.nonzero(counts, as_tuple=True)
        place, counted = self.place[block][image, slot], counts[image, slot]
        members.precision.index_add_(0, place, counted)
        members.total.index_add_(0, place, counted[:, None] * z[image])

    def _share(self, members: Members) -> None:
        all_reduce_sum(members.precision, self._mesh)
        all_reduce_sum(members.total, self._mesh)

    def everywhere(self) -> Posterior:
        """The answer for the images of all ranks."""
        size, device = self._labelled.num_images, self.row.device

        def whole(value: Tensor, absent: float) -> Tensor:
            full = torch.full((size, *value.shape[1:]), absent, dtype=value.dtype, device=device)
            full[self._labelled.place_of_row >= 0] = 0
            full[self.row] = value
            if self._mesh.world_size > 1:
                full[self._labelled.place_of_row < 0] = 0
                full = all_reduce_sum(full, self._mesh)
                full[self._labelled.place_of_row < 0] = absent
            return full

        odds = self.probability
        counts = self._model.weight(self.quality[:, 0])
        return Posterior(
            whole(self.place, -1), whole(odds[:, :-1].contiguous(), 0.0),
            whole(odds[:, -1].contiguous(), 0.0), whole(self.hard, 0.0),
            whole(self.terms.ratio[:, 0].contiguous(), 0.0),
            whole(counts, 0.0), self.members,
        )  # fmt: skip


@torch.no_grad()
def posterior(
    labelled: LabelledSet,
    model: IdentityModel,
    calibration: Calibration,
    cleaner_logit: Tensor | None,
    mesh: Mesh,
    confirmed: Tensor | None = None,
) -> Posterior:
    """Whose image each is, with the arguments of `Estimation`; every rank gets the answer."""
    estimation = Estimation(labelled, model, calibration, cleaner_logit, mesh, confirmed)
    return estimation.run().everywhere()


def candidates(labelled: LabelledSet, row: Tensor) -> Tensor:
    """Classes that these images (n,) may be of, (n, NUM_CANDIDATES): places, -1 past the last.

    Its own first, then those of its nearest images, the nearest first.
    """
    parts = [
        _nearest_classes(labelled, part) for part in torch.split(row, _NUMBERS_AT_ONCE // 1600)
    ]
    return torch.cat(parts) if parts else row.new_zeros(0, NUM_CANDIDATES)


def _nearest_classes(labelled: LabelledSet, row: Tensor) -> Tensor:
    neighbour = labelled.embedded.context(row)[1]  # (n, K)
    place = labelled.place_of_row[neighbour.clamp(min=0)].where(neighbour >= 0, -1)
    own = labelled.place_of_row[row][:, None]
    earlier = torch.ones(2 * (place.shape[1],), dtype=torch.bool, device=row.device).tril(-1)
    again = ((place[:, :, None] == place[:, None, :]) & earlier).any(2)
    new = (place >= 0) & (place != own) & ~again
    rank = new.cumsum(1)
    new &= rank < NUM_CANDIDATES
    found = torch.full((len(row), NUM_CANDIDATES), -1, device=row.device)
    found[:, :1] = own
    image, slot = new.nonzero(as_tuple=True)
    found[image, rank[image, slot]] = place[image, slot]
    return found
