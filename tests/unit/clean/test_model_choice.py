"""Where the fit of a noisy set begins, and that a small one is not fitted to its wrong labels."""

import numpy as np
import pytest
import torch
from helpers.posterior import MESH, gaussian_people, labelled_as

from facetrain.clean.model_choice import agreeing, fit_unsupervised
from facetrain.clean.posterior import Calibration, Estimation
from facetrain.core.rng import numpy_generator


def test_who_agrees_is_told_by_strangers() -> None:
    """Everybody of a clean set; of the wrong ones at most the one in a hundred that is let in."""
    embedding, person = gaussian_people(0, [5] * 60 + [1] * 5)
    label = person.copy()
    wrong = np.arange(0, 300, 7)
    label[wrong] = (label[wrong] + 11) % 60
    weight = agreeing(labelled_as(embedding, label)).numpy() == 1
    assert weight[300:].all()  # alone in their classes
    assert weight[wrong].mean() < 0.05
    right = np.setdiff1d(np.arange(300), wrong)
    assert weight[right].mean() > 0.95
    shuffled = numpy_generator(0, "shuffled").permutation(label)
    weight = agreeing(labelled_as(embedding, shuffled)).numpy() == 1
    assert weight[:300].mean() < 0.1


def test_one_class_has_no_strangers() -> None:
    embedding, person = gaussian_people(0, [6])
    assert bool(agreeing(labelled_as(embedding, person)).all())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_set_is_not_fitted_to_its_wrong_labels(seed: int) -> None:
    """Forty people of five images in 128 dimensions, a fifth under another name.

    Begun at weight 1 in all labels, none of the wrong ones would be found. With a covariance that
    200 images do not determine, what is misplaced would look like nobody, not like its owner.
    """
    generator = numpy_generator(seed, "small set")
    person = np.repeat(np.arange(40), 5)
    embedding = generator.normal(size=(40, 128))[person] + 0.8 * generator.normal(size=(200, 128))
    label, wrong = person.copy(), generator.permutation(200)[:40]
    label[wrong] = (label[wrong] + generator.integers(1, 40, 40)) % 40
    labelled = labelled_as(embedding.astype(np.float32), label)
    model, weight = fit_unsupervised(labelled, MESH)
    is_wrong = torch.zeros(200, dtype=torch.bool)
    is_wrong[wrong] = True
    assert (weight[is_wrong] < 0.5).float().mean() > 0.9
    assert (weight[~is_wrong] > 0.5).float().mean() > 0.95
    found = Estimation(labelled, model, Calibration(temperature=1), None, MESH).run().posterior()
    best = found.place.gather(1, found.probability.argmax(1, keepdim=True))[:, 0]
    home = labelled.classes.class_id[best] == torch.from_numpy(person)
    told = home & (found.probability.amax(1) > found.nobody)
    assert told[is_wrong].float().mean() > 0.8
