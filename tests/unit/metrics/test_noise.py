"""Noise detection against numbers worked by hand, slow loops, and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from facetrain.core.rng import numpy_generator
from facetrain.metrics.noise import auroc, average_precision, noise_detection

# Six images, the cleanest last; noise is at 0.1, 0.3 and 0.5.
SCORE = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
IS_CLEAN = np.array([False, True, False, False, True, True])


def random_case(seed: int, num_images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Scores among 0.1, 0.2, ..., 0.9, and truth."""
    generator = numpy_generator(seed, "noise metrics")
    is_clean = generator.random(num_images) < 0.6
    score = np.round(np.clip(generator.normal(0.4 + 0.25 * is_clean, 0.25), 0.1, 0.9), 1)
    return score, is_clean


def test_by_hand() -> None:
    """Kept above 0.4: dropped 0.1 (noise), 0.2 (clean), 0.3 (noise); 0.5 (noise) is missed.

    Average precision: noise is met at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3. AUROC: of 9 pairs
    of noise and clean, 0.3 and 0.5 are above the clean 0.2: 7 of 9.
    """
    found = noise_detection(SCORE, SCORE > 0.4, IS_CLEAN)
    assert (found.num_images, found.num_noise) == (6, 3)
    assert (found.num_found, found.num_missed, found.num_wrongly_dropped) == (2, 1, 1)
    assert found.precision == found.recall == found.f1 == pytest.approx(2 / 3)
    assert found.average_precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert found.auroc == pytest.approx(7 / 9)


def test_without_noise_or_ranking() -> None:
    everything = np.ones(3, bool)
    found = noise_detection(None, everything, everything)
    assert found.precision is found.recall is found.f1 is None
    assert found.average_precision is found.auroc is None
    assert noise_detection(None, ~everything, everything).f1 == 0.0
    score = np.array([0.2, 0.4, 0.4])
    assert average_precision(score, everything) is None
    assert auroc(score, everything) is auroc(score, ~everything) is None
    assert average_precision(score, ~everything) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_ties_against_slow_loops(seed: int) -> None:
    score, is_clean = random_case(seed)
    noise, clean = score[~is_clean], score[is_clean]
    pairs = [(n < c) + 0.5 * (n == c) for n in noise for c in clean]
    assert auroc(score, is_clean) == pytest.approx(np.mean(pairs))
    recall, total = 0.0, 0.0
    for value in sorted(set(score.tolist())):
        dropped = score <= value
        found = (dropped & ~is_clean).sum()
        total += (found / len(noise) - recall) * found / dropped.sum()
        recall = found / len(noise)
    assert average_precision(score, is_clean) == pytest.approx(total)


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed: int) -> None:
    score, is_clean = random_case(seed, 300)
    found = noise_detection(score, score > 0.5, is_clean)
    noise, dropped = ~is_clean, score <= 0.5
    assert found.precision == pytest.approx(precision_score(noise, dropped))
    assert found.recall == pytest.approx(recall_score(noise, dropped))
    assert found.f1 == pytest.approx(f1_score(noise, dropped))
