"""What `plant` promises, counted: numbers of each kind, who gives, who receives, what stays."""

import re
from pathlib import Path

import numpy as np
import pytest

from facetrain.core.config import parse_config
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.rng import numpy_generator
from facetrain.data.noise.per_class import noise_per_class
from facetrain.data.noise.plant import (
    CLEAN,
    FLIP,
    OUTLIER,
    STRUCTURED,
    NoiseConfig,
    PlantedNoise,
    plant,
    plant_at_most,
)

MIXES = [
    {"flip": 0.2},
    {"flip": 0.4},
    {"outlier": 0.3},
    {"structured": 0.25},
    {"flip": 0.15, "outlier": 0.15},
    {"flip": 0.1, "outlier": 0.1, "structured": 0.1},
    {},
]


def long_tail(num_classes: int = 400) -> np.ndarray:
    """Shuffled labels with gaps: many small identities, a few big ones."""
    generator = numpy_generator(5, "long tail")
    size = np.maximum(generator.lognormal(1.5, 1.0, num_classes), 1).astype(np.int64)
    label = np.repeat(generator.permutation(3 * num_classes)[:num_classes], size)
    return generator.permutation(label)


def donors(planted: PlantedNoise, kind: int) -> dict[int, set[int]]:
    """Identities whose images of this kind arrived, by the class they arrived in."""
    chosen = planted.kind == kind
    found: dict[int, set[int]] = {}
    pairs = zip(planted.label[chosen].tolist(), planted.true_label[chosen].tolist(), strict=True)
    for receiver, donor in pairs:
        found.setdefault(receiver, set()).add(donor)
    return found


def check(label: np.ndarray, planted: PlantedNoise, config: NoiseConfig) -> None:
    """Every promise that holds for every mix."""
    num_images = len(label)
    for kind, rate in ((FLIP, config.flip), (OUTLIER, config.outlier)):
        assert (planted.kind == kind).sum() == round(rate * num_images)
    assert (planted.kind == STRUCTURED).sum() == round(config.structured * num_images)
    assert np.array_equal(planted.true_label, label)
    assert np.array_equal(planted.is_clean, planted.label == label)
    assert np.array_equal(planted.is_clean, planted.kind == CLEAN)
    assert planted.label.shape == planted.kept.shape == (num_images,)
    # Open or closed set can be told from the truth alone: who still has a clean image?
    owners = set(label[planted.is_clean & planted.kept].tolist())
    held_out = set(label[planted.kind == OUTLIER].tolist())
    assert owners == set(label.tolist()) - held_out
    assert set(planted.label[planted.kept].tolist()) <= owners
    # What is not kept are surplus images of one held-out identity.
    assert set(label[~planted.kept].tolist()) <= held_out
    assert len(set(label[~planted.kept].tolist())) <= 1
    assert planted.is_clean[~planted.kept].all()
    # Identities with one image neither receive nor flip: there are others.
    names, size = np.unique(label, return_counts=True)
    single = names[size == 1]
    assert not np.isin(planted.label[~planted.is_clean], single).any()
    assert not np.isin(label[planted.kind == FLIP], single).any()
    # Structured noise: in classes of three or more, from one or two people, at most 48 %.
    received = donors(planted, STRUCTURED)
    assert not set(received) & set(names[size < 3].tolist())
    assert {len(givers) for givers in received.values()} <= {1, 2}
    for receiver in received:
        inside = planted.kept & (planted.label == receiver)
        assert (~planted.is_clean[inside]).mean() <= 0.48
        _, group = np.unique(label[inside], return_counts=True)
        own = (inside & planted.is_clean).sum()
        assert (group >= own).sum() == 1  # only the owner's


@pytest.mark.parametrize("rates", MIXES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_promise_on_a_long_tail(rates: dict[str, float], seed: int) -> None:
    label = long_tail()
    config = NoiseConfig(seed=seed, **rates)
    check(label, plant(label, config), config)


@pytest.mark.parametrize("rates", MIXES)
def test_every_promise_on_lfw(rates: dict[str, float], lfw: Path) -> None:
    label = np.load(lfw / "features_dlib.npz")["label"]
    config = NoiseConfig(**rates)
    check(label, plant(label, config), config)


def test_the_smallest_identities_are_held_out() -> None:
    """Ten images: identity 1 has one, 2 has two, 0 three, 3 four; 30 % are those of 1 and 2."""
    label = np.array([0, 3, 2, 3, 0, 1, 3, 2, 0, 3])
    planted = plant(label, NoiseConfig(outlier=0.3))
    assert np.flatnonzero(planted.kind == OUTLIER).tolist() == [2, 5, 7]
    assert planted.kept.all()
    assert set(planted.label.tolist()) == {0, 3}
    # 20 % need identity 2 only in half: its other image is left out.
    planted = plant(label, NoiseConfig(outlier=0.2))
    assert planted.counts() == {"clean": 7, "flip": 0, "outlier": 2, "structured": 0}
    assert planted.kind[5] == OUTLIER
    assert sorted(planted.kept[[2, 7]].tolist()) == [False, True]
    assert planted.kept.sum() == 9


def test_equals_are_held_out_at_random() -> None:
    label = np.repeat(np.arange(20), 5)
    chosen = [
        frozenset(label[plant(label, NoiseConfig(outlier=0.2, seed=seed)).kind == OUTLIER].tolist())
        for seed in range(5)
    ]
    assert all(len(identities) == 4 for identities in chosen)  # 20 images are 4 whole identities
    assert len(set(chosen)) > 1


def test_flips_come_from_many_people_and_structured_noise_from_one_or_two() -> None:
    label = np.repeat(np.arange(100), 40)
    flips = donors(plant(label, NoiseConfig(flip=0.25)), FLIP)
    assert np.mean([len(givers) for givers in flips.values()]) > 8  # of about 10 images
    structured = donors(plant(label, NoiseConfig(structured=0.25)), STRUCTURED)
    counts = [len(givers) for givers in structured.values()]
    assert counts.count(2) == round(0.4 * len(counts))
    assert counts.count(1) == len(counts) - counts.count(2)


def test_structured_noise_takes_at_most_half_of_a_class_where_it_can() -> None:
    label = np.repeat(np.arange(100), 40)
    planted = plant(label, NoiseConfig(structured=0.25))
    gone = np.bincount(label[~planted.is_clean], minlength=100)
    assert gone.max() <= 20
    assert gone.sum() == 1000


def test_every_class_has_a_rate_of_its_own() -> None:
    """500 classes of 100 images, 20 % noise.

    Arrivals in a class are 100 r with r from Beta(1.6, 6.4), deviation sqrt(.2 * .8 / 9) = 0.133;
    its noise rate r / (0.8 + r), as 20 % leave, deviates by about 0.133 * 0.8 = 0.107. One rate
    for all with random classes would deviate by sqrt(.2 * .8 / 100) = 0.04.
    """
    label = np.repeat(np.arange(500), 100)
    for config in (NoiseConfig(flip=0.2), NoiseConfig(structured=0.2)):
        planted = plant(label, config)
        rate = np.bincount(planted.label, ~planted.is_clean, 500) / np.bincount(planted.label)
        assert 0.08 < rate.std() < 0.14
        assert rate.max() > 0.4
        assert (rate < 0.05).sum() > 10
        assert abs(rate.mean() - 0.2) < 0.03


def test_a_flip_never_comes_home() -> None:
    """Where nearly all flips leave one class, hardly any may arrive there."""
    for sizes in ([50, 50], [90, 6, 4], [5, 5, 200], [3, 3, 3]):
        label = np.repeat(np.arange(len(sizes)), sizes)
        for seed in range(5):
            planted = plant(label, NoiseConfig(flip=0.4, seed=seed))
            assert (planted.kind == FLIP).sum() == round(0.4 * len(label))
            assert (planted.label[planted.kind == FLIP] != label[planted.kind == FLIP]).all()


def test_one_image_classes_receive_when_nothing_else_is_left() -> None:
    planted = plant(np.arange(10), NoiseConfig(outlier=0.3))
    assert planted.counts()["outlier"] == 3
    clean = planted.is_clean
    assert clean.sum() == 7
    assert set(planted.label.tolist()) == set(planted.label[clean].tolist())


def test_the_seed_decides() -> None:
    label = long_tail()
    config = NoiseConfig(flip=0.1, outlier=0.1, structured=0.1, seed=3)
    first, again = plant(label, config), plant(label, config)
    assert np.array_equal(first.label, again.label)
    assert np.array_equal(first.kept, again.kept)
    other = plant(label, config.model_copy(update={"seed": 4}))
    assert (first.label != other.label).mean() > 0.1


def test_only_eligible_images_take_part() -> None:
    label = np.append(long_tail(), np.full(50, 10_000))
    eligible = np.arange(len(label)) % 3 != 0
    eligible[label == 10_000] = False
    planted = plant_at_most(label, NoiseConfig(flip=0.2, outlier=0.1), eligible)
    assert planted.is_clean[~eligible].all()
    assert planted.kept[~eligible].all()
    assert (~planted.is_clean[eligible]).sum() == sum(
        round(rate * eligible.sum()) for rate in (0.2, 0.1)
    )
    assert not (planted.label[eligible] == 10_000).any()
    alone = plant(label[eligible], NoiseConfig(flip=0.2, outlier=0.1))
    assert np.array_equal(planted.label[eligible], alone.label)


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [
        ([20] * 30, {"structured": 0.6}),
        ([4] * 30, {"structured": 0.45}),
        ([30, 2, 2, 2, 1, 1], {"structured": 0.2}),
        ([1, 1, 2, 2], {"flip": 0.5}),
        ([1] * 9, {"flip": 0.2}),
        ([50], {"flip": 0.2}),
        ([3, 4, 5], {"flip": 0.1, "outlier": 0.6}),
        ([20] * 10, {"structured": 0.2, "flip": 0.6}),
    ],
)
def test_what_the_classes_cannot_bear_names_a_rate_they_can(
    sizes: list[int], rates: dict[str, float]
) -> None:
    label = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.raises(ConfigError, match="must fit the classes") as caught:
        plant(label, NoiseConfig(**rates))
    possible, name = re.search(r"bear ([\d.]+) with .* set (\w+) to", str(caught.value)).groups()
    assert 0 <= float(possible) < rates[name]
    config = NoiseConfig(**{**rates, name: float(possible)})
    check(label, plant(label, config), config)


def test_structured_noise_comes_near_what_two_equal_classes_bear() -> None:
    """Two classes of 25 can swap 12 images each, no more: 13 of 25 remain, 48 % is noise."""
    label = np.repeat([0, 1], 25)
    planted = plant(label, NoiseConfig(structured=0.44))
    assert np.bincount(planted.label[~planted.is_clean]).sum() == 22
    with pytest.raises(ConfigError, match=r"50 images of 2 identities bear 0\.4"):
        plant(label, NoiseConfig(structured=0.52))


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"flip": 1.0}, "flip=1.0.*less than 1"),
        ({"outlier": -0.1}, "outlier=-0.1.*greater than or equal to 0"),
        ({"structured": float("nan")}, "structured=nan"),
        ({"flip": 0.5, "outlier": 0.5}, "must sum to less than 1, got 1"),
        ({"flips": 0.5}, "did you mean 'flip'"),
    ],
)
def test_rates_are_shares(rates: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(NoiseConfig, rates, "test")


def test_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one image"):
        plant(np.array([], int), NoiseConfig())


def test_arrivals_sum_up_and_stop_at_the_most() -> None:
    generator = numpy_generator(0, "arrivals")
    size, most = np.full(50, 20), np.arange(50)
    count = noise_per_class(700, 0.5, size, most, generator)
    assert count.sum() == 700
    assert (count <= most).all()
    assert np.array_equal(noise_per_class(10_000, 0.5, size, most, generator), most)
    # Without a limit, in proportion to size: ten classes of 10 and ten of 1,000 images.
    size = np.repeat([10, 1000], 10)
    count = sum(noise_per_class(1010, 0.3, size, np.full(20, 5000), generator) for _ in range(200))
    assert count[:10].sum() / count.sum() == pytest.approx(10 / 1010, rel=0.3)
