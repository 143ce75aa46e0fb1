"""Who sends how many images to whom, when a class's noise is one or two other people.

This is what the web gives: the second result of an image search is mostly one namesake. It pulls
the class centre, which many unrelated strangers do not.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from facetrain.data.noise.per_class import noise_per_class

_ONE_DONOR_SHARE = 0.6
_LEAST_RECEIVER = 3  # images: below, two people in a class cannot be told apart
# Noise is at most 48 % of a class: 12 noisy images need 13 of the owner.
_NOISE_PARTS, _OWNER_PARTS = 12, 13
# Concentration of the class rates, and the share of its images a class may give; tried in turn.
_ATTEMPTS = ((8.0, 0.5), (8.0, 1.0), (32.0, 1.0), (128.0, 1.0))
_TRIES = 8


@dataclasses.dataclass(frozen=True)
class Transfers:
    """Moves of images between classes; no pair of classes twice."""

    donor: NDArray[np.int64]  # (number of transfers,) class that gives
    receiver: NDArray[np.int64]  # (number of transfers,) class that receives
    count: NDArray[np.int64]  # (number of transfers,) images


def most_noise(own: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C,) noisy images that `own` images of the owner bear at 48 % noise."""
    return _NOISE_PARTS * own // _OWNER_PARTS


def least_own(noise: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C,) images the owner must keep beside `noise` ones, and always one."""
    return np.maximum(-(-_OWNER_PARTS * noise // _NOISE_PARTS), 1)


def plan_transfers(
    total: int, rate: float, size: NDArray[np.int64], generator: np.random.Generator
) -> Transfers:
    """Transfers of `total` images, or of as many as these classes bear.

    Every class keeps at least 52 % images of its owner whatever it gives and receives. Only classes
    of three or more images receive, from one donor (60 % of them) or two. The biggest receivers
    choose their donors first; what a donor lacks is planned again among the other classes. No class
    gives more than half of its images and class rates differ (see `noise_per_class`), unless there
    are too few donors; then classes give more, and at last their rates grow alike.

    Args:
        total: images to move.
        rate: mean of the class rates, in [0, 1).
        size: (C,) images of each class.
    """
    attempts = []
    for concentration, giving in _ATTEMPTS:
        attempts.append(_transfers(total, rate, size, concentration, giving, generator))
        if attempts[-1].count.sum() == total:
            return attempts[-1]
    return max(attempts, key=lambda transfers: int(transfers.count.sum()))


def _transfers(
    total: int,
    rate: float,
    size: NDArray[np.int64],
    concentration: float,
    giving: float,
    generator: np.random.Generator,
) -> Transfers:
    """One attempt at `plan_transfers`."""
    stays = size - np.floor(giving * size).astype(np.int64)  # (C,) images a class never gives
    own, arrived = size.copy(), np.zeros_like(size)
    receives = size >= _LEAST_RECEIVER
    matching = _Matching(len(size), generator)
    while (left := total - int(arrived.sum())) > 0:
        room = np.where(receives, np.maximum(most_noise(own) - arrived, 0), 0)

        def draw(total: int, room: NDArray[np.int64] = room) -> NDArray[np.int64]:
            return noise_per_class(total, rate, size, room, generator, concentration)

        plan, spare = _plan(left, draw, own, arrived, stays)
        if not plan.any():
            break
        if not arrived.any():
            matching.choose_two_donor_classes(plan)
        given, received = matching.match(plan, spare)
        own -= given
        arrived += received
        receives &= received == plan  # the donors of the others have nothing left
    return matching.transfers()


def _plan(
    total: int,
    draw: Callable[[int], NDArray[np.int64]],
    own: NDArray[np.int64],
    arrived: NDArray[np.int64],
    stays: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(C,) images to arrive beside those that did, and (C,) what each class can then spare.

    A class that receives must keep images of its own, so a plan for too many leaves no donors:
    the total shrinks until what is spared is enough for it.
    """
    while True:
        plan = draw(total)
        spare = np.maximum(own - np.maximum(least_own(arrived + plan), stays), 0)
        if spare.sum() >= plan.sum():
            return plan, spare
        total = int(plan.sum() + spare.sum()) // 2


class _Matching:
    """Donors of each receiving class, and the images moved so far."""

    def __init__(self, num_classes: int, generator: np.random.Generator) -> None:
        self._generator = generator
        self._num_classes = num_classes
        self._two_donors = np.zeros(num_classes, np.bool_)
        self._donors: dict[int, list[int]] = {}
        self._moved: dict[tuple[int, int], int] = {}  # (donor, receiver) -> images

    def choose_two_donor_classes(self, plan: NDArray[np.int64]) -> None:
        """Draw the 40 % of the receiving classes that get two donors; one image has one donor."""
        able = np.flatnonzero(plan >= 2)
        wanted = round((1 - _ONE_DONOR_SHARE) * int(np.count_nonzero(plan)))
        chosen = self._generator.permutation(able)[:wanted]
        self._two_donors[chosen] = True

    def match(
        self, plan: NDArray[np.int64], spare: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Move up to `plan` images into each class out of `spare`: given (C,), received (C,)."""
        before, received = spare.copy(), np.zeros_like(plan)
        order = self._generator.permutation(np.flatnonzero(plan))
        for receiver in order[np.argsort(-plan[order], kind="stable")].tolist():
            need = int(plan[receiver])
            parts = [need]
            if self._two_donors[receiver] and need >= 2:
                first = int(self._generator.integers(1, need))
                parts = [first, need - first]
            donors = self._donors.setdefault(receiver, [])
            for place, part in enumerate(parts):
                if place == len(donors):
                    donor = self._find_donor(spare, part, [receiver, *donors])
                    if donor is None:
                        break
                    donors.append(donor)
                donor = donors[place]
                moved = min(part, int(spare[donor]))
                spare[donor] -= moved
                received[receiver] += moved
                pair = (donor, receiver)
                self._moved[pair] = self._moved.get(pair, 0) + moved
        return before - spare, received

    def _find_donor(self, spare: NDArray[np.int64], part: int, excluded: list[int]) -> int | None:
        """A random class that can spare `part` images, else the one that can spare the most."""
        for donor in self._generator.integers(self._num_classes, size=_TRIES).tolist():
            if spare[donor] >= part and donor not in excluded:
                return int(donor)
        able = np.flatnonzero(spare >= part)
        able = able[~np.isin(able, excluded)]
        if len(able):
            return int(self._generator.choice(able))
        allowed = spare.copy()
        allowed[excluded] = 0
        donor = int(allowed.argmax())
        return donor if allowed[donor] else None

    def transfers(self) -> Transfers:
        """All moves, in the order of their donors."""
        moves = sorted((*pair, count) for pair, count in self._moved.items() if count)
        donor, receiver, count = np.array(moves, np.int64).reshape(-1, 3).T
        return Transfers(donor, receiver, count)
