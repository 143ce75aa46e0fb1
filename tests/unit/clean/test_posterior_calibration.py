"""Weights of evidence fitted on noise that is known, judged on noise that was not used."""

import math
from typing import NamedTuple

import numpy as np
import torch
from helpers.people import people
from helpers.posterior import MESH, labelled_as, model_of

from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.posterior import Calibration, Estimation
from facetrain.clean.posterior_calibration import _fit, _true_slot
from facetrain.clean.posterior_calibration import calibrate as fit_weights
from facetrain.core.rng import numpy_generator
from facetrain.data.noise.plant import NoiseConfig, plant
from facetrain.metrics.calibration import calibration

SIZE, NUM_PEOPLE = 12, 60
START = Calibration()


class Draw(NamedTuple):
    """A set under noise that it knows, and the GCN's logits."""

    labelled: LabelledSet
    cleaner_logit: torch.Tensor | None

    @property
    def true_label(self) -> torch.Tensor:
        assert self.labelled.true_label is not None
        return self.labelled.true_label


def draw_of(embedding: np.ndarray, label: np.ndarray, person: np.ndarray) -> Draw:
    labelled = labelled_as(embedding, label)
    labelled.true_label = torch.from_numpy(person)
    return Draw(labelled, None)


def calibrate(draws: list[Draw], model: IdentityModel) -> Calibration:
    logits = [one.cleaner_logit for one in draws]
    return fit_weights([one.labelled for one in draws], logits, model)


def drawn(seed: int, with_cleaner: bool = False, rate: float = 0.3) -> Draw:
    """The same people, so close to one another that many an image is open, under other flips.

    The cleaner says the truth with an error of 2 nats.
    """
    embedding, person = people(0, NUM_PEOPLE, (4, 9), SIZE)
    planted = plant(person, NoiseConfig(flip=rate, seed=seed))
    logit = None
    if with_cleaner:
        said = np.where(planted.is_clean, 2.0, -2.0)
        said += 2 * numpy_generator(seed, "cleaner").normal(size=len(said))
        logit = torch.from_numpy(said).float()
    return draw_of(embedding, planted.label, person)._replace(cleaner_logit=logit)


def known_model() -> IdentityModel:
    embedding, person = people(0, NUM_PEOPLE, (4, 9), SIZE)
    return model_of(labelled_as(embedding, person))


def judged(draw: Draw, model: IdentityModel, weights: Calibration) -> tuple[float, float]:
    """Mean -log p of the true label (nobody if no candidate), and the calibration error."""
    with torch.no_grad():
        found = Estimation(draw.labelled, model, weights, draw.cleaner_logit, MESH).run()
    classes = draw.labelled.classes.class_id
    chances = []
    for row, places, chance in zip(
        found.row.tolist(), found.place.tolist(), found.probability.tolist(), strict=True
    ):
        labels = [int(classes[one]) if one >= 0 else -1 for one in places]
        truth = int(draw.true_label[row])
        chances.append(chance[labels.index(truth) if truth in labels else -1])
    right = (draw.labelled.label_of_row == draw.true_label)[found.row].numpy()
    error = calibration(found.probability[:, 0].numpy(), right).expected_error
    return float(-np.log(np.maximum(chances, 1e-12)).mean()), error


def test_a_few_easy_images_leave_the_weights_where_thousands_of_people_have_them() -> None:
    """They are right under any weights, so they say nothing of how far off hard ones are."""
    embedding, person = people(0, 6, (3, 4), SIZE)
    found = calibrate([draw_of(embedding, person, person)], known_model())
    assert 8 < found.offset < 13
    assert 0.2 < found.temperature < 0.4


def test_weights_fitted_on_noise_hold_on_other_noise() -> None:
    model, fresh = known_model(), drawn(7)
    fitted = calibrate([drawn(seed) for seed in range(3)], model)
    before, after = judged(fresh, model, START), judged(fresh, model, fitted)
    assert after[0] < 0.3 * before[0]
    assert after[1] < 0.05 < 0.1 < before[1]
    # The control: under a truth that was shuffled the same fit makes the very same draw worse.
    generator = torch.Generator().manual_seed(0)
    shuffled = [drawn(seed) for seed in range(3)]
    for draw in shuffled:
        order = torch.randperm(len(draw.true_label), generator=generator)
        draw.labelled.true_label = draw.true_label[order]
    wrong = judged(fresh, model, calibrate(shuffled, model))
    assert wrong[0] > 2 * after[0]
    assert wrong[1] > 0.2


def test_the_fit_is_a_minimum() -> None:
    """At the classes' members as they are, no weights aside are more likely after the truth."""
    model, start = known_model(), Calibration(0.8, 0.0, 0.5)
    draws = [drawn(seed, with_cleaner=True) for seed in range(2)]
    with torch.no_grad():
        sets = [
            Estimation(one.labelled, model, start, one.cleaner_logit, MESH).run() for one in draws
        ]

    def loss(weights: Calibration) -> float:
        logs = [one.log_odds(weights).log_softmax(1) for one in sets]
        away = 4 * math.log(weights.temperature / 0.2) ** 2 + 100 * (weights.offset / 10) ** 2
        away += 4 * (weights.cleaner_weight - 0.5) ** 2  # the priors
        return away / 2 - sum(
            float(log.gather(1, _true_slot(one)[:, None]).sum())
            for log, one in zip(logs, sets, strict=True)
        )

    fitted = _fit(sets, start)
    assert loss(fitted) < 0.98 * loss(start)
    for change in (
        {"temperature": fitted.temperature * 1.3},
        {"temperature": fitted.temperature / 1.3},
        {"offset": fitted.offset + 3},
        {"offset": fitted.offset - 3},
        {"cleaner_weight": fitted.cleaner_weight + 0.3},
        {"cleaner_weight": fitted.cleaner_weight - 0.3},
    ):
        assert loss(fitted._replace(**change)) > loss(fitted), change


def test_the_truth_is_a_candidate_or_nobody() -> None:
    """By hand: the slot of the true class, and the last where it is not among the candidates."""
    draw, model = drawn(3), known_model()
    estimation = Estimation(draw.labelled, model, START, None, MESH)
    truth = draw.labelled.true_label = draw.true_label.clone()
    truth[estimation.row[5]] = 1000  # nobody of the set
    found = _true_slot(estimation)
    classes = draw.labelled.classes.class_id.tolist()
    for row, places, slot in zip(
        estimation.row.tolist(), estimation.place.tolist(), found.tolist(), strict=True
    ):
        labels = [classes[one] for one in places if one >= 0]
        right = int(truth[row])
        assert slot == (labels.index(right) if right in labels else len(places))
    assert found[5] == estimation.place.shape[1]
    assert (found[draw.labelled.label_of_row != draw.true_label] > 0).all()


def test_a_cleaner_weighs_what_its_word_is_worth() -> None:
    """Logits that are right by 2 +- 2 nats are worth themselves; of chance, nothing."""
    model = known_model()
    told = calibrate([drawn(seed, with_cleaner=True) for seed in range(2)], model)
    assert 0.5 < told.cleaner_weight < 1.5
    noise = [
        draw._replace(cleaner_logit=2 * torch.randn(len(draw.true_label),
                                                    generator=torch.Generator().manual_seed(seed)))
        for seed, draw in enumerate(map(drawn, range(2)))
    ]  # fmt: skip
    assert 0 <= calibrate(noise, model).cleaner_weight < 0.15
    against = [
        draw._replace(cleaner_logit=-draw.cleaner_logit)
        for draw in (drawn(seed, with_cleaner=True) for seed in range(2))
        if draw.cleaner_logit is not None
    ]
    assert calibrate(against, model).cleaner_weight == 0  # never against its word


def test_few_images_leave_the_prior() -> None:
    """Separable draws would have the temperature grow without end."""
    draw = drawn(0, rate=0.0)
    few = draw.true_label.clone()
    labels = few.where(few < 3, -1).numpy()
    embedding, _ = people(0, NUM_PEOPLE, (4, 9), SIZE)
    fitted = calibrate([draw_of(embedding, labels, few.numpy())], known_model())
    assert 0.1 < fitted.temperature < 0.4
    assert 8 < fitted.offset < 13
