"""Hard sampling: which meta images are most unlike the training batch."""

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.batches.meta_sampler import MetaSampler, distinctness, most_distinct
from facetrain.data.batches.planted_variation import PlantConfig
from facetrain.data.batches.sampler import TrainSampler


def test_distinctness_by_hand() -> None:
    # Factor 0 in the batch: level 0 three times of four; factor 1: one known, level 1.
    train = np.array([[0, 1], [0, -1], [0, -1], [1, -1]])
    level = np.array([[0, 1], [1, 1], [2, 0], [-1, 0]])
    #                 .25+0   .75+0   1+1     0+1
    np.testing.assert_allclose(distinctness(level, train), [0.25, 0.75, 2.0, 1.0])


def test_most_distinct_takes_few_of_one_person() -> None:
    score = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    identity = np.array([1, 1, 1, 2, 3, 3])
    np.testing.assert_array_equal(most_distinct(score, identity, 4, 2), [0, 1, 3, 4])
    # Five of three people at one each do not exist: the best of the others fill up.
    np.testing.assert_array_equal(most_distinct(score, identity, 5, 1), [0, 3, 4, 1, 2])


def slow(score: np.ndarray, identity: np.ndarray, count: int, most: int) -> list[int]:
    taken: list[int] = []
    order = sorted(range(len(score)), key=lambda i: (-score[i], i))
    for i in order:
        if sum(identity[j] == identity[i] for j in taken) < most:
            taken.append(i)
    return [*taken, *(i for i in order if i not in taken)][:count]


@pytest.mark.parametrize("seed", range(5))
def test_most_distinct_against_a_slow_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, identity = rng.integers(0, 6, 40).astype(float), rng.integers(0, 9, 40)
    found = most_distinct(score, identity, 17, 2)
    np.testing.assert_array_equal(found, slow(score, identity, 17, 2))


def sampler(sampling: str, batch_size: int = 6) -> MetaSampler:
    rng = np.random.default_rng(0)
    level = rng.integers(0, 4, (60, 2))
    train_level = np.zeros((50, 2), np.int64)  # the training set has level 0 only
    return MetaSampler(
        np.arange(60) // 3, level, train_level, TrainSampler(50, 10, 1),
        batch_size, 5, sampling, 2,  # type: ignore[arg-type]
    )  # fmt: skip


def test_hard_sampling_avoids_what_the_batch_shows() -> None:
    hard, plain = sampler("histogram"), sampler("none")
    common = [
        np.mean([(one.level[one.rows_of_step(step)] == 0).mean() for step in range(30)])
        for one in (hard, plain)
    ]
    assert common[0] < 0.03  # of a pool of 24 there are nearly always 6 without a common level
    assert common[1] == pytest.approx(0.25, abs=0.08)


def test_planted_levels_count_in_the_choice_and_stay_with_their_images() -> None:
    """The batch shows only sharp faces without occluders: candidates with planted ones win."""
    stored = np.full((60, 3), -1)
    train_level = np.zeros((50, 3), np.int64)
    plant = PlantConfig(blur_shares=(3, 1, 0, 0), occlusion_shares=(3, 1, 0, 0, 0))

    def chosen(sampling: str) -> MetaSampler:
        return MetaSampler(
            np.arange(60), stored, train_level, TrainSampler(50, 10, 1),
            6, 5, sampling, 2, plant,  # type: ignore[arg-type]
        )  # fmt: skip

    hard, plain = (
        np.concatenate([chosen(one).levels_of_step(step) for step in range(20)])
        for one in ("histogram", "none")
    )
    assert (hard[:, 0] == -1).all()
    # One in 16 has both, of a pool of 24; seven in 16 have at least one.
    assert (hard[:, 1:] > 0).any(1).mean() > 0.95
    assert (plain[:, 1:] > 0).any(1).mean() == pytest.approx(7 / 16, abs=0.12)
    one = chosen("histogram")
    np.testing.assert_array_equal(one.rows_of_step(3), chosen("histogram").rows_of_step(3))


def test_steps_are_a_function_of_seed_and_step_and_ranks_share_them() -> None:
    one, again = sampler("histogram"), sampler("histogram")
    again.rows_of_step(9)
    np.testing.assert_array_equal(one.rows_of_step(3), again.rows_of_step(3))
    parts = [one.rank_rows(3, rank, 4) for rank in range(4)]
    joined = np.concatenate(parts)
    np.testing.assert_array_equal(joined[:6], one.rows_of_step(3))
    assert (joined[6:] == -1).all()
    assert len(joined) == 8


def test_too_few_meta_images_are_named() -> None:
    with pytest.raises(DataError, match="holds 60 images, but a step needs 61"):
        sampler("histogram", 61)
