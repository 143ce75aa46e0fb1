import torch

from facetrain.core.rng import derive_seed, numpy_generator, torch_generator


def test_seeds_are_stable_across_processes_and_versions() -> None:
    # Written down once: a change would silently break the resume of every run.
    assert derive_seed(0, "epoch", 3) == 928185087805610579
    assert numpy_generator(1, "a").integers(1 << 30) == 704405225
    assert 0 <= derive_seed(7) < 1 << 63


def test_every_part_matters_and_order_too() -> None:
    seeds = {derive_seed(0, "a", 1), derive_seed(0, 1, "a"), derive_seed(1, "a"), derive_seed(0)}
    assert len(seeds | {derive_seed(0, "a", "1")}) == 5


def test_torch_generator_repeats() -> None:
    first, second = (torch.rand(4, generator=torch_generator(5, "x")) for _ in range(2))
    assert torch.equal(first, second)
