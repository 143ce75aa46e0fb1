"""The adapter's class summary by a slow oracle, and thresholds where they are known."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facetrain.clean.adapter import ThresholdAdapter, class_summary, fit_adapter
from facetrain.clean.threshold_loss import threshold_loss
from facetrain.core.rng import numpy_generator, torch_generator
from facetrain.graph.class_graphs import ClassGraphs, group_by_class

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


class ScoredClasses(NamedTuple):
    """As `fit_adapter` takes them."""

    graphs: ClassGraphs
    clean_probability: torch.Tensor
    is_clean: torch.Tensor

    def thresholds(self, adapter: ThresholdAdapter) -> torch.Tensor:
        return torch.sigmoid(adapter(class_summary(self.clean_probability, self.graphs)))


def judged(*groups: tuple[float, float, int], classes: int = 20, seed: int = 0) -> ScoredClasses:
    """Classes alike: groups (probability, spread, count), a negative count for noise."""
    generator = numpy_generator(seed, "judged")
    size = sum(abs(count) for _, _, count in groups)
    chance, clean = [], []
    for _ in range(classes):
        for middle, spread, count in groups:
            chance.append(middle + spread * generator.uniform(-1, 1, abs(count)))
            clean += [count > 0] * abs(count)
    graphs = group_by_class(np.repeat(np.arange(classes), size))
    return ScoredClasses(
        graphs, torch.from_numpy(np.concatenate(chance)).float(), torch.tensor(clean)
    )


def thresholds(one: ScoredClasses, prior_weight: float = 0.0) -> NDArray[np.float32]:
    torch.manual_seed(0)
    adapter = fit_adapter([one], margin=0.1, prior_weight=prior_weight)
    found = one.thresholds(adapter)
    return found.detach().numpy()


def test_class_summary_against_a_loop() -> None:
    generator = numpy_generator(0, "summary")
    sizes = [1, 2, 3, 40, 7]
    graphs = group_by_class(np.repeat(np.arange(5), sizes))
    chance = torch.from_numpy(generator.uniform(0, 1, graphs.num_nodes).astype(np.float32))
    chance[:2] = torch.tensor([0.0, 1.0])  # logits have an end: of 1e-4
    found = class_summary(chance, graphs)
    for i, size in enumerate(sizes):
        own = np.sort(chance[graphs.label == i].numpy().astype(np.float64))
        picked = np.clip([own[int((size - 1) * q)] for q in QUANTILES], 1e-4, 1 - 1e-4)
        logit = np.log(picked / (1 - picked)) / 4
        spread = np.sqrt(own.var() + 1e-6)
        rest = [own.mean(), spread, np.log(size), float(chance.mean())]
        np.testing.assert_allclose(found[i].detach(), [*logit, *rest], rtol=1e-4, atol=1e-4)


def test_the_order_of_images_plays_no_part() -> None:
    generator = torch_generator(0, "order")
    graphs = group_by_class(np.repeat(np.arange(3), [5, 30, 12]))
    chance = torch.rand(47, generator=generator)
    parts = [
        part[torch.randperm(len(part), generator=generator)] for part in chance.split([5, 30, 12])
    ]
    shuffled = torch.cat(parts)
    assert not torch.equal(shuffled, chance)
    torch.testing.assert_close(class_summary(shuffled, graphs), class_summary(chance, graphs))


def test_half_before_training() -> None:
    one = judged((0.9, 0.1, 8), (0.1, 0.1, -2))
    adapter = ThresholdAdapter(class_summary(one.clean_probability, one.graphs))
    assert one.thresholds(adapter).tolist() == [0.5] * 20


def test_stays_at_half_where_noise_and_clean_stand_apart() -> None:
    """The loss is zero for noise under 0.4 and clean over 0.6: nothing moves a threshold at 0.5."""
    found = thresholds(judged((0.9, 0.09, 8), (0.1, 0.1, -3)))
    assert found.tolist() == [0.5] * 20


def test_noise_at_0_6_raises_and_clean_at_0_4_lowers() -> None:
    """Zero loss: noise + 0.1 <= t <= clean - 0.1, so t in [0.7, 0.8], and in [0.2, 0.3]."""
    high = thresholds(judged((0.95, 0.03, 8), (0.59, 0.01, -3)))
    assert ((high > 0.68) & (high < 0.83)).all()
    low = thresholds(judged((0.42, 0.01, 8), (0.05, 0.03, -3)))
    assert ((low > 0.17) & (low < 0.32)).all()


def test_each_class_gets_its_own() -> None:
    """Both kinds in one set, told apart by the summary; a single threshold fails one of them."""
    kinds = [judged((0.95, 0.03, 8), (0.6, 0.02, -3)), judged((0.4, 0.02, 8), (0.05, 0.03, -3))]
    graphs = group_by_class(np.repeat(np.arange(40), 11))
    both = ScoredClasses(
        graphs,
        *(torch.cat([getattr(k, name) for k in kinds]) for name in ScoredClasses._fields[1:]),
    )
    found = thresholds(both, prior_weight=0.003)
    assert ((found[:20] > 0.62) & (found[:20] < 0.85)).all()
    assert ((found[20:] > 0.15) & (found[20:] < 0.38)).all()


@pytest.mark.parametrize(
    "groups",
    [
        ((0.95, 0.02, 90), (0.3, 0.02, 5), (0.6, 0.02, -5)),
        ((0.95, 0.02, 5), (0.4, 0.02, 5), (0.7, 0.02, -4), (0.1, 0.02, -90)),
    ],
    ids=["much clean", "much noise"],
)
def test_overlapping_classes_get_the_least_balanced_loss(
    groups: tuple[tuple[float, float, int], ...],
) -> None:
    """Classes alike have one threshold, found here by trying all; a plain mean's is far from it.

    Of much clean: 5 of 95 clean images pull down and all 5 noise images up. Balanced, the noise
    weighs 19 times as much as one of those, and in a plain mean the same.
    """
    one = judged(*groups, classes=8)
    cuts = np.linspace(0.02, 0.98, 481)
    balanced, plain = [], []
    for cut in cuts:
        loss = threshold_loss(
            one.clean_probability, torch.full_like(one.clean_probability, cut), one.is_clean,
            margin_false_positive=0.1, margin_false_negative=0.1,
        )  # fmt: skip
        balanced.append(float(loss[one.is_clean].mean() + loss[~one.is_clean].mean()) / 2)
        plain.append(float(loss.mean()))
    best = min(balanced)
    flat = cuts[np.array(balanced) < best + 0.005]
    found = thresholds(one)
    assert ((found > flat.min() - 0.02) & (found < flat.max() + 0.02)).all()
    assert plain[int(np.abs(cuts - found.mean()).argmin())] > 1.1 * min(plain)


def test_beyond_what_it_was_trained_on_counts_as_the_nearest() -> None:
    """Trained on two sets with 15 % noise each, and asked about one with 40 % in larger classes.

    The share of noise over all images hardly moved in training; followed out of that range, a
    threshold goes anywhere.
    """
    sets = [
        judged((0.9, 0.09, 17), (0.45, 0.15, -3), seed=0),
        judged((0.89, 0.1, 17), (0.5, 0.15, -3), seed=1),
    ]
    torch.manual_seed(0)
    adapter = fit_adapter(sets, margin=0.1, prior_weight=0.001)
    inside = torch.cat([one.thresholds(adapter) for one in sets])
    other = judged((0.9, 0.09, 180), (0.45, 0.15, -120), seed=2)
    summary = class_summary(other.clean_probability, other.graphs)
    seen = torch.cat([class_summary(one.clean_probability, one.graphs) for one in sets])
    assert (summary[:, -1] < seen[:, -1].min() - 0.05).all()
    nearest = torch.minimum(torch.maximum(summary, seen.amin(0)), seen.amax(0))
    torch.testing.assert_close(adapter(summary), adapter(nearest))
    found = other.thresholds(adapter)
    assert ((found > inside.min() - 0.15) & (found < inside.max() + 0.15)).all()
    # Inside of the range nothing is changed.
    free = adapter.layers((seen - adapter.mean) / adapter.spread).squeeze(1)
    torch.testing.assert_close(adapter(seen), free)
