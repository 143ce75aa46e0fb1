import numpy as np
import pytest

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.batches.sampler import NO_ROW, SamplingConfig, TrainSampler


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


LABEL = np.repeat([3, 7, 1, 0, 5], [1, 2, 30, 4, 8])  # 45 images of five identities


def epoch_rows(sampler: TrainSampler, epoch: int) -> np.ndarray:
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    return np.stack([sampler.rows_of_step(step) for step in steps])


def test_identities_with_few_images_are_never_drawn():
    sampler = TrainSampler(45, 6, 1, SamplingConfig(least_images=4), LABEL)
    assert sampler.steps_per_epoch == 7  # 42 images are left
    rows = epoch_rows(sampler, 0).ravel()
    assert sorted(rows.tolist()) == list(range(3, 45))  # 1 and 2 images of the first two


def test_class_balance_draws_every_identity_equally_often_and_its_images_in_turn():
    sampler = TrainSampler(45, 9, 1, SamplingConfig(by="identity"), LABEL)
    assert sampler.steps_per_epoch == 5
    rows = epoch_rows(sampler, 0).ravel()
    assert np.bincount(LABEL[rows]).tolist() == [9, 9, 0, 9, 0, 9, 0, 9]
    drawn = np.bincount(rows, minlength=45)
    assert drawn[:3].tolist() in ([9, 4, 5], [9, 5, 4])
    assert set(drawn[33:37].tolist()) == {2, 3}  # 9 draws of 4 images
    assert drawn[3:33].max() == 1  # nine of thirty
    others = {tuple(np.flatnonzero(np.bincount(epoch_rows(sampler, e).ravel())[3:33]))
              for e in range(4)}  # fmt: skip
    assert len(others) == 4  # other ones in other epochs


def test_p_by_k_batches_have_p_identities_with_k_images_each():
    sampling = SamplingConfig(by="batch", images_per_identity=4)
    sampler = TrainSampler(45, 8, 1, sampling, LABEL)
    for epoch in range(3):
        for rows in epoch_rows(sampler, epoch):
            identity, count = np.unique(LABEL[rows], return_counts=True)
            assert len(identity) == 2
            assert count.tolist() == [4, 4]
            big = rows[np.isin(LABEL[rows], [1, 0, 5])]
            assert len(set(big.tolist())) == len(big)  # who has four images repeats none
    # Positions only: any step can be asked for first.
    again = TrainSampler(45, 8, 1, sampling, LABEL)
    np.testing.assert_array_equal(again.rows_of_step(11), sampler.rows_of_step(11))
    parts = [sampler.rank_rows(3, rank, 3) for rank in range(3)]
    assert np.concatenate(parts)[:8].tolist() == sampler.rows_of_step(3).tolist()


def test_sampling_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="multiple of the 4"):
        TrainSampler(45, 6, 1, SamplingConfig(by="batch"), LABEL)
    with pytest.raises(DataError, match="there are 5"):
        TrainSampler(45, 24, 1, SamplingConfig(by="batch"), LABEL)
    with pytest.raises(DataError, match="holds 30 images of identities with 20"):
        TrainSampler(45, 31, 1, SamplingConfig(least_images=20), LABEL)
    most = int(np.bincount(LABEL).max())
    with pytest.raises(DataError, match=f"set sampling.least_images to at most {most}$"):
        TrainSampler(45, 6, 1, SamplingConfig(least_images=most + 1), LABEL)
    with pytest.raises(ValueError, match="belongs to by=batch, not to by=identity"):
        SamplingConfig(by="identity", images_per_identity=3)
