"""Hard sampling: the meta batch that is most unlike the training batch.

The paper's metric is unknown. Here the level histograms of the training batch decide: of a random
pool of candidates those are taken whose levels are rarest in it, at most a few of one identity.
Everything is a function of (seed, step), so batches can be decoded ahead and nothing is saved.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.rng import numpy_generator
from facetrain.data.batches.planted_variation import PlantConfig, draw_planted
from facetrain.data.batches.sampler import TrainSampler, rank_part

Sampling = Literal["histogram", "none"]
_POOL = 4  # candidates for each image that is taken


def distinctness(
    level: NDArray[np.integer], train_level: NDArray[np.integer]
) -> NDArray[np.float64]:
    """sum_k (1 - h_k(level_k)) of each candidate, (M,): how rare its levels are in the batch.

    h_k is the share of level l among the training batch's known levels of factor k. An unknown
    level counts as a common one, 0.

    Args:
        level: (M, K) of the candidates, -1 unknown.
        train_level: (G, K) of the training batch.
    """
    score = np.zeros(len(level))
    for own, theirs in zip(level.T, train_level.T, strict=True):
        known = theirs[theirs >= 0]
        share = np.bincount(known, minlength=int(own.max(initial=0)) + 1) / max(len(known), 1)
        score += np.where(own >= 0, 1 - share[np.maximum(own, 0)], 0.0)
    return score


def most_distinct(
    score: NDArray[np.float64], identity: NDArray[np.integer], count: int, most_per_identity: int
) -> NDArray[np.int64]:
    """Positions of the `count` highest scores, at most so many of one identity.

    Ties go to the earlier candidate. When identities run out, the best of the rest fill up.
    """
    order = np.argsort(-score, kind="stable")
    # Rank of each candidate within its identity, best first.
    by_identity = order[np.argsort(identity[order], kind="stable")]
    first = np.flatnonzero(np.diff(identity[by_identity], prepend=identity[by_identity[:1]] - 1))
    start = np.repeat(first, np.diff(np.append(first, len(by_identity))))
    rank = np.empty(len(order), np.int64)
    rank[by_identity] = np.arange(len(by_identity)) - start
    within = rank[order] < most_per_identity
    return np.concatenate([order[within], order[~within]])[:count].astype(np.int64)


class MetaSampler:
    """Rows of the meta set for every step, without end.

    Args:
        identity: (M,) of the meta set.
        level: (M, K) of the meta set.
        train_level: (N, K) of the training set.
        train: which training images each step sees.
        batch_size: meta images a step over all ranks, |V|.
        sampling: `histogram` as above, `none` takes them at random.
        most_per_identity: of `histogram`.
        plant: the last two factors, blur and occlusion, are planted; drawn for every candidate, so
            that they count in the choice.

    Raises:
        DataError: fewer meta images than a batch.
    """

    def __init__(
        self,
        identity: NDArray[np.integer],
        level: NDArray[np.integer],
        train_level: NDArray[np.integer],
        train: TrainSampler,
        batch_size: int,
        seed: int,
        sampling: Sampling,
        most_per_identity: int,
        plant: PlantConfig | None = None,
    ) -> None:
        if len(identity) < batch_size:
            raise DataError(
                f"the meta set holds {len(identity)} images, but a step needs {batch_size}; set "
                "finetune.meta_batch_size lower, or give more of them"
            )
        self.identity, self.level, self.train_level = identity, level, train_level
        self.train, self.batch_size, self.seed = train, batch_size, seed
        self.sampling, self.most_per_identity = sampling, most_per_identity
        self.plant = plant

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Rows of the global meta batch of `step`, (|V|,)."""
        return self._choice(step)[0]

    def levels_of_step(self, step: int) -> NDArray[np.int64]:
        """(|V|, K) levels of the global meta batch, with what is planted."""
        return self._choice(step)[1]

    def _choice(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and levels of the global meta batch."""
        rng = numpy_generator(self.seed, "meta batch", step)
        size = self.batch_size if self.sampling == "none" else _POOL * self.batch_size
        pool = rng.choice(len(self.identity), min(size, len(self.identity)), replace=False)
        level = self.level[pool].astype(np.int64)
        if self.plant is not None:
            level[:, -2:] = draw_planted(self.plant, len(pool), self.seed, step).numpy()
        if self.sampling == "none":
            return pool, level
        score = distinctness(level, self.train_level[self.train.rows_of_step(step)])
        taken = most_distinct(score, self.identity[pool], self.batch_size, self.most_per_identity)
        return pool[taken], level[taken]

    def rank_rows(self, step: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """One rank's part, (ceil(|V| / world_size),), filled up with NO_ROW."""
        return rank_part(self.rows_of_step(step), rank, world_size)
