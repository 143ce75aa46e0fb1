"""The posterior of several ranks, each with a share of the images, is that of one."""

from functools import cache

import numpy as np
import torch
from helpers.posterior import PLAIN, gaussian_people, labelled_as, model_of
from helpers.ranks import Ranks

from facetrain.clean import posterior as module
from facetrain.clean.posterior import Estimation, Posterior
from facetrain.dist.mesh import Mesh

BLOCK = 2000
"""Numbers at once: blocks that do not divide over 2 or 3 ranks."""


def answer(mesh: Mesh) -> Posterior:
    """Of 22 people, among them three alone, under wrong labels; two images are absent."""
    embedding, person = gaussian_people(0, [6] * 12 + [2] * 7 + [1] * 3, image=0.4)
    label = person.copy()
    label[::6] = (5 * label[::6] + 1) % 22
    label[[7, 40]] = -1
    labelled = labelled_as(embedding, label, 12)
    logit = torch.from_numpy(np.sin(np.arange(len(label)))).float()
    whole, module._NUMBERS_AT_ONCE = module._NUMBERS_AT_ONCE, BLOCK
    try:
        weights = PLAIN._replace(cleaner_weight=0.5)
        model = model_of(labelled_as(embedding, person))
        return Estimation(labelled, model, weights, logit, mesh).run().posterior()
    finally:
        module._NUMBERS_AT_ONCE = whole


@cache
def alone() -> Posterior:
    return answer(Mesh.single())


def test_ranks_equal_one_process(ranks: Ranks) -> None:
    expected = alone()
    assert 0.02 < float((expected.probability[:, 0] < 0.5).float().mean()) < 0.5
    for found in ranks.run(answer):
        assert torch.equal(found.place, expected.place)
        for name in ("probability", "nobody", "hard", "own_ratio", "counts"):
            torch.testing.assert_close(
                getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4, msg=name
            )


def test_one_image_leaves_ranks_without_work(ranks: Ranks) -> None:
    for found in ranks.run(one_image):
        assert found == [1.0, 0.0]


def one_image(mesh: Mesh) -> list[float]:
    """Of a single labelled image among absent ones: three ranks share it."""
    embedding, person = gaussian_people(1, [4, 4])
    model = model_of(labelled_as(embedding, person))
    label = np.where(np.arange(8) == 5, 0, -1)
    found = Estimation(labelled_as(embedding, label), model, PLAIN, None, mesh).run().posterior()
    return [round(float(found.probability[5, 0] + found.nobody[5]), 5), float(found.own_ratio[5])]
