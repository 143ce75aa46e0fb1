"""The posterior over labels: what it sums to, what it must not depend on, and by a slow reference.

Sixteen dimensions, so that strangers are now and then alike, as they are among many people.
"""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.people import noisy_people
from helpers.posterior import (
    MESH,
    PLAIN,
    answer_of,
    gaussian_people,
    labelled_as,
    model_of,
    said,
    slow_candidates,
)

from facetrain.clean import posterior as module
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.posterior import NUM_CANDIDATES, Calibration, Estimation, candidates

SIZES = [6] * 12 + [3] * 6 + [1] * 4


def noisy() -> tuple[Any, Any, Any]:
    """People of SIZES, every fifth image under another label; one absent."""
    embedding, person = gaussian_people(0, SIZES, image=0.5)
    label = person.copy()
    label[::5] = (label[::5] * 7 + 3) % len(SIZES)
    label[11] = -1
    return embedding, label, person


def present(labelled: LabelledSet) -> list[int]:
    return torch.nonzero(labelled.place_of_row >= 0)[:, 0].tolist()


def test_candidates_are_the_nearest_classes() -> None:
    """The given one, then those of the neighbours, nearest first, each once."""
    embedding, label, _ = noisy()
    labelled = labelled_as(embedding, label)
    row = torch.tensor(present(labelled))
    found = candidates(labelled, row)
    assert found.shape == (len(label) - 1, NUM_CANDIDATES)
    classes = labelled.classes.class_id
    for image, places in zip(row.tolist(), found, strict=True):
        expected = slow_candidates(embedding, label, image)
        assert classes[places[places >= 0]].tolist() == expected
        assert (places[len(expected) :] == -1).all()
    assert (found >= 0).all(1).any()
    assert len(candidates(labelled, row[:0])) == 0


def test_first_pass_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLR of every candidate, its class's members summed anew without the image itself."""
    monkeypatch.setattr(module, "_PASSES", 1)
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 3000)  # several blocks
    embedding, label, _ = noisy()
    labelled = labelled_as(embedding, label)
    model = model_of(labelled)
    logit = torch.linspace(-2, 2, len(label))
    calibration = Calibration(0.3, 1.5, 0.7)
    estimation = Estimation(labelled, model, calibration, logit, MESH)
    own_r = estimation.responsibility[:, 0].clone()
    size = np.bincount(label[label >= 0])
    first = [int(np.flatnonzero(label == one)[0]) for one in label[estimation.row]]
    second = torch.from_numpy(size[label[estimation.row]] == 2)
    second &= estimation.row != torch.tensor(first)
    assert second.any()
    assert torch.equal(own_r, (~second).float())
    estimation.run()
    z = labelled.embedded.rows(estimation.row) @ model.basis
    place, own = estimation.place, estimation.place[:, 0]
    count = labelled.classes.num_classes
    for image in range(len(z)):
        nobody = model.log_likelihood(z[image], torch.tensor(0.0), 0 * z[image]).logsumexp(0)
        scores = []
        for slot, candidate in enumerate(place[image].tolist()):
            if candidate < 0:
                continue
            others = (own == candidate) & (torch.arange(len(z)) != image)
            n, t = own_r[others].sum(), (own_r[others, None] * z[others]).sum(0)
            ratio = model.log_likelihood(z[image], n, t).logsumexp(0) - nobody
            assert float(estimation.ratio[image, slot]) == pytest.approx(float(ratio), abs=2e-3)
            if slot == 0:
                own_logit = float(logit[estimation.row[image]])
                shifted = float(ratio) + 1.5 * min(float(n), 1)
                scores.append(np.log(0.8) + 0.3 * shifted + 0.7 * own_logit)
            else:
                scores.append(np.log(0.2 * 0.7 / (count - 1)) + 0.3 * float(ratio))
        scores.append(np.log(0.2 * 0.3))
        expected = np.exp(scores) / np.exp(scores).sum()
        chance = estimation.probability[image]
        chance = torch.cat([chance[: len(scores) - 1], chance[-1:]])
        np.testing.assert_allclose(chance, expected, atol=1e-3)


def test_leaving_an_image_out_is_never_having_had_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its likelihood ratios are those of an unlabelled image among the others."""
    monkeypatch.setattr(module, "_PASSES", 1)
    embedding, label, _ = noisy()
    labelled = labelled_as(embedding, label)
    model = model_of(labelled)
    found = answer_of(labelled, model)
    for image in (0, 20, 40, len(label) - 1):
        without = label.copy()
        without[image] = -1
        others = labelled_as(embedding, without)
        members = answer_of_start(others, model)
        z = labelled.embedded.rows(torch.tensor([image]))[0] @ model.basis
        nobody = model.log_likelihood(z, torch.tensor(0.0), 0 * z).logsumexp(0)
        ratio = torch.tensor(0.0)  # a class that is empty without it
        place = torch.nonzero(others.classes.class_id == label[image])[:, 0]
        if len(place):
            n, t = members.precision[place[0]], members.total[place[0]]
            ratio = model.log_likelihood(z, n, t).logsumexp(0) - nobody
        assert float(found.own_ratio[image]) == pytest.approx(float(ratio), abs=2e-3)


def answer_of_start(labelled: LabelledSet, model: Any) -> module.Members:
    """The members with which the first pass begins."""
    return Estimation(labelled, model, PLAIN, None, MESH).members


def test_probabilities_sum_to_one_and_absent_images_have_none() -> None:
    embedding, label, _ = noisy()
    labelled = labelled_as(embedding, label)
    found = answer_of(labelled)
    total = found.probability.sum(1) + found.nobody
    rows = present(labelled)
    torch.testing.assert_close(total[rows], torch.ones(len(rows)))
    assert (found.probability >= 0).all()
    assert (found.probability[found.place < 0] == 0).all()
    assert (found.place[11] == -1).all()
    assert total[11] == 0


def test_wrong_labels_are_told_and_right_ones_kept() -> None:
    """A third of a rate of noise that begins at 0.2; the control is the given label for all."""
    embedding, label, person = noisy()
    labelled = labelled_as(embedding, label)
    found = answer_of(labelled, model_of(labelled_as(embedding, person)))
    company = np.bincount(label[label >= 0], minlength=len(SIZES))[label] > 2
    wrong, judged = label != person, (label >= 0) & company
    kept = found.probability[:, 0].numpy() > 0.5
    assert kept[judged & ~wrong].mean() > 0.95
    assert kept[judged & wrong].mean() < 0.1
    best = [max(chance := said(labelled, found, image), key=chance.__getitem__)
            for image in np.flatnonzero(judged & wrong & (person < 12))]  # fmt: skip
    assert np.mean(best == person[judged & wrong & (person < 12)]) > 0.8


def test_order_of_images_and_names_of_classes_do_not_matter() -> None:
    """Classes of two aside, where the first is taken for the owner."""
    embedding, label, _ = noisy()
    size = np.bincount(label[label >= 0])
    label[np.isin(label, np.flatnonzero(size == 2))] = -1
    labelled = labelled_as(embedding, label)
    model = model_of(labelled)
    expected = answer_of(labelled, model)
    generator = np.random.default_rng(0)
    order, names = generator.permutation(len(label)), 3 * generator.permutation(len(SIZES)) + 2
    renamed = np.where(label[order] >= 0, names[label[order]], -1)
    other = labelled_as(embedding[order], renamed)
    found = answer_of(other, model)
    assert (found.probability.amax(1)[renamed >= 0] > 0.1).all()
    for image, source in enumerate(order):
        before = said(labelled, expected, source)
        before = {int(names[one]) if one >= 0 else -1: p for one, p in before.items()}
        assert said(other, found, image) == pytest.approx(before, abs=2e-3)
        assert float(found.hard[image]) == pytest.approx(float(expected.hard[source]), abs=2e-3)


def test_an_image_alone_is_no_evidence() -> None:
    """Of a class without others it is as likely as of nobody: the prior and its rivals decide."""
    embedding, label = gaussian_people(3, [6] * 10 + [1] * 3, image=0.3)
    labelled = labelled_as(embedding, label)
    found = answer_of(labelled)
    assert found.own_ratio[60:].tolist() == [0, 0, 0]
    assert (found.probability[60:, 0] > 0.5).all()
    # A seventh image of person 0, alone under another name, is told.
    label = label.copy()
    label[5] = 50
    labelled = labelled_as(embedding, label)
    chances = said(labelled, answer_of(labelled), 5)
    assert chances[0] > 0.7 > 0.3 > chances[50]


@pytest.mark.parametrize("offset", [0.0, 6.0])
def test_hard_are_those_with_less_evidence_than_head_start(offset: float) -> None:
    """Never one without others of its class: it looks like nobody, which is no evidence."""
    embedding, label, person = noisy()
    labelled = labelled_as(embedding, label)
    model = model_of(labelled_as(embedding, person))
    found = answer_of(labelled, model, calibration=PLAIN._replace(offset=offset))
    size = labelled.size_of_row()
    expected = found.own_ratio < offset
    assert 0.05 < float(expected[size > 3].float().mean()) < 0.6
    assert torch.equal((found.hard > 0.5)[size > 3], expected[size > 3])
    assert not (found.hard > 0.5)[size <= 1].any()


def test_what_a_person_has_confirmed_stays() -> None:
    embedding, label, person = noisy()
    labelled = labelled_as(embedding, label)
    model = model_of(labelled_as(embedding, person))
    free = answer_of(labelled, model)
    worst = int(free.probability[:, 0].where(labelled.place_of_row >= 0, 1.0).argmin())
    assert free.probability[worst, 0] < 0.01
    found = answer_of(labelled_as(embedding, label, worst), model)
    assert found.probability[worst, 0] == 1
    assert found.nobody[worst] == 0


def test_the_cleaners_word_counts_by_its_weight() -> None:
    embedding, label, _ = noisy()
    labelled = labelled_as(embedding, label)
    model = model_of(labelled)
    plain = answer_of(labelled, model)
    against = torch.full((len(label),), -6.0)
    unheard = answer_of(
        labelled, model, cleaner_logit=0 * against, calibration=PLAIN._replace(cleaner_weight=1.0)
    )
    rows = present(labelled)
    weighed = PLAIN._replace(cleaner_weight=1.0)
    heard = answer_of(labelled, model, cleaner_logit=against, calibration=weighed)
    assert float(unheard.probability[rows, 0].mean()) > 0.6
    assert (heard.probability[rows, 0] < unheard.probability[rows, 0] + 1e-6).all()
    assert heard.probability[rows, 0].mean() < plain.probability[rows, 0].mean() - 0.2


@pytest.mark.parametrize("blocks", [1, 4000])
def test_blocks_do_not_matter(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, label, _ = noisy_people(0, 12)
    labelled = labelled_as(embedding, label)
    model = model_of(labelled)
    expected = answer_of(labelled, model)
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", max(blocks, 1600))
    found = answer_of(labelled, model)
    assert torch.equal(found.place, expected.place)
    torch.testing.assert_close(found.probability, expected.probability, rtol=0, atol=1e-4)


def test_copies_only() -> None:
    """Every image twice, and a class of one image nine times: finite, and believed."""
    embedding, label = gaussian_people(2, [4] * 8)
    twice, labels = np.concatenate([embedding, embedding]), np.concatenate([label, label])
    labelled = labelled_as(twice, labels)
    found = answer_of(labelled)
    assert (found.probability[:, 0] > 0.9).all()
    same = labelled_as(np.repeat(embedding[:1], 9, 0), np.array([0] * 5 + [1] * 4))
    found = answer_of(same)
    torch.testing.assert_close(found.probability.sum(1) + found.nobody, torch.ones(9))
