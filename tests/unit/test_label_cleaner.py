"""LabelCleaner keeps scikit-learn's contract for estimators."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from facetrain import LabelCleaner
from facetrain.core.errors import ConfigError

NOT_APPLICABLE = {
    "check_estimators_dtypes": "gives a row of zeros, which has no direction and is refused",
}


@pytest.mark.filterwarnings("ignore:cleaning needs 8 classes:UserWarning")
@parametrize_with_checks([LabelCleaner()], expected_failed_checks=lambda _: NOT_APPLICABLE)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_a_set_too_small_is_kept_and_said() -> None:
    embedding, label = np.eye(6, 4) + 0.1, np.array(list("aabbcc"))
    with pytest.warns(UserWarning, match="every label is kept"):
        cleaner = LabelCleaner().fit(embedding, label)
    assert cleaner.kept_.all()
    assert cleaner.label_.tolist() == label.tolist()


def test_options_are_those_of_the_section() -> None:
    generator = np.random.default_rng(0)
    embedding, label = generator.normal(size=(32, 8)), np.repeat(np.arange(8), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match="unknown key"):
            LabelCleaner(options={"sed": 1}).fit(embedding, label)
        with pytest.raises(ConfigError, match="drawn from random_state"):
            LabelCleaner(options={"seed": 1}).fit(embedding, label)


def test_the_scale_is_the_one_of_most_likelihood() -> None:
    generator = np.random.default_rng(1)
    label = np.repeat(np.arange(5), 20)
    embedding = generator.normal(size=(5, 6))[label] + 0.8 * generator.normal(size=(100, 6))
    with pytest.warns(UserWarning, match="every label is kept"):
        cleaner = LabelCleaner().fit(embedding, label)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)

    def likelihood(scale: float) -> float:  # each image judged by the others, written out
        total = 0.0
        for i in range(100):
            logit = []
            for one in range(5):
                members = [j for j in range(100) if label[j] == one and j != i]
                mean = unit[members].sum(0)
                logit.append(scale * unit[i] @ mean / np.linalg.norm(mean))
            total += logit[label[i]] - np.log(np.exp(logit).sum())
        return total

    best = likelihood(cleaner.scale_)
    assert best > likelihood(0.9 * cleaner.scale_)
    assert best > likelihood(1.1 * cleaner.scale_)
