"""The rival of the cleaner finds what anybody would: images of others in well separated classes."""

import numpy as np

from tools.benchmarks.clean import rivals as clean_rivals


def test_planted_flips_are_found_and_shuffled_labels_are_not() -> None:
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(12), 20)
    embedding = rng.normal(size=(12, 32))[true] + 0.5 * rng.normal(size=(240, 32))
    label = true.copy()
    flipped = rng.permutation(240)[:36]
    label[flipped] = (true[flipped] + rng.integers(1, 12, 36)) % 12
    noise = label != true
    judged = clean_rivals.sub_centre_drop(embedding, label)
    order = judged.score.argsort()[:36]
    assert noise[order].mean() > 0.9  # the worst scores are the flips
    assert noise[~judged.kept].mean() > 0.9
    assert (~judged.kept)[noise].mean() > 0.6
    # Control: with labels that mean nothing, the images flipped above do not stand out.
    shuffled = clean_rivals.sub_centre_drop(embedding, rng.permutation(label))
    assert noise[shuffled.score.argsort()[:36]].mean() < 0.4
