import numpy as np
import pytest

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.sampler import NO_ROW, TrainSampler


def test_an_epoch_is_a_permutation_without_its_incomplete_batch():
    sampler = TrainSampler(num_images=23, batch_size=5, seed=1)
    assert sampler.steps_per_epoch == 4  # 23 // 5
    epochs = [
        np.concatenate([sampler.rows_of_step(epoch * 4 + i) for i in range(4)])
        for epoch in range(3)
    ]
    for rows in epochs:
        assert rows.dtype == np.int64
        assert len(set(rows.tolist())) == 20
        assert set(rows.tolist()) <= set(range(23))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_a_step_depends_on_seed_and_step_only():
    forward = TrainSampler(100, 8, seed=3)
    backward = TrainSampler(100, 8, seed=3)
    other_seed = TrainSampler(100, 8, seed=4)
    steps = range(30)  # 12 steps an epoch: two borders
    expected = [forward.rows_of_step(step) for step in steps]
    for step in reversed(steps):
        assert np.array_equal(backward.rows_of_step(step), expected[step])
    assert not np.array_equal(other_seed.rows_of_step(0), expected[0])


@pytest.mark.parametrize(
    ("batch_size", "world_size", "parts"),
    # ceil(10/1)=10; ceil(10/3)=4; ceil(10/4)=3; ceil(5/4)=2, so the last rank has none.
    [(10, 1, [10]), (10, 3, [4, 4, 2]), (10, 4, [3, 3, 3, 1]), (5, 4, [2, 2, 1, 0])],
)
def test_ranks_cut_the_same_global_batch(batch_size, world_size, parts):
    sampler = TrainSampler(64, batch_size, seed=0)
    step = 9
    ranks = [sampler.rank_rows(step, rank, world_size) for rank in range(world_size)]
    assert {len(rows) for rows in ranks} == {parts[0]}
    assert [int((rows != NO_ROW).sum()) for rows in ranks] == parts
    for rows, part in zip(ranks, parts, strict=True):
        assert (rows[part:] == NO_ROW).all()
    together = np.concatenate(ranks)
    assert np.array_equal(together[together != NO_ROW], sampler.rows_of_step(step))


def test_rank_rows_are_the_callers_own():
    sampler = TrainSampler(10, 5, seed=0)
    before = sampler.rows_of_step(0).copy()
    sampler.rank_rows(0, 0, 1)[:] = 99
    assert np.array_equal(sampler.rows_of_step(0), before)


def test_a_data_set_smaller_than_a_batch_is_refused():
    with pytest.raises(DataError, match=r"holds 7 images, but a global batch needs 8; .* most 7"):
        TrainSampler(7, 8, seed=0)
    with pytest.raises(ConfigError, match=r"train\.batch_size=0: must be at least 1"):
        TrainSampler(7, 0, seed=0)
