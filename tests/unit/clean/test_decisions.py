"""Decisions and reasons from posteriors written by hand, in the set's own labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.people import random_unit
from helpers.posterior import SIZE, answer_of, gaussian_people, labelled_as, model_of
from helpers.shards import write_shard
from numpy.typing import NDArray

from facetrain.clean.decisions import numbers_of, overlay, result_of
from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.posterior import Posterior
from facetrain.core.rng import numpy_generator
from facetrain.data.cleaning_result import REASON_NAMES, CleaningResult, Reason
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay

IDS = np.array([5, 70, 1 << 40])
"""What the first three classes are called; the others 2^40 + 1, ..."""
NUM_PEOPLE, IMAGES = 40, 6


def names(person: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([IDS, IDS[2] + 1 + np.arange(NUM_PEOPLE)])[person]


class Case:
    """Forty people of six images under their labels, and what is said of them."""

    def __init__(self) -> None:
        self.embedding, self.person = gaussian_people(0, [IMAGES] * NUM_PEOPLE, image=0.5)
        self.label = names(self.person)
        self.labelled: LabelledSet = labelled_as(self.embedding, self.label)
        self.model: IdentityModel = model_of(self.labelled)
        self.found: Posterior = answer_of(self.labelled, self.model)

    def answer(self, found: Posterior | None = None, **more: Any) -> CleaningResult:
        arguments = {"excluded": [], **more}
        return result_of(found or self.found, **arguments)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


OTHER, N, H = Reason.OTHER_IDENTITY, Reason.NOBODY, Reason.HARD
SAID = [  # own, another, nobody, hard; reason, kept, whether the other is suggested
    (0.97, 0.01, 0.02, 0.1, Reason.CLEAN, True, False),
    (0.97, 0.01, 0.02, 0.9, H, True, False),
    (0.02, 0.95, 0.03, 0.1, OTHER, False, True),
    (0.02, 0.95, 0.03, 0.9, OTHER, False, True),
    (0.02, 0.03, 0.95, 0.9, N, False, False),
    (0.05, 0.60, 0.35, 0.9, OTHER, False, True),
    (0.05, 0.35, 0.60, 0.9, N, False, False),
    (0.45, 0.53, 0.02, 0.1, Reason.AMBIGUOUS, False, True),
    (0.53, 0.45, 0.02, 0.9, Reason.AMBIGUOUS, True, True),
    (0.70, 0.30, 0.00, 0.1, Reason.CLEAN, True, False),
    (0.30, 0.65, 0.05, 0.1, OTHER, False, True),
    (0.50, 0.00, 0.50, 0.1, N, False, False),
]


def put(found: Posterior, row: int, own: float, other: float, nobody: float, hard: float) -> int:
    """Say this of an image, of its nearest other class; its place."""
    found.probability[row] = 0
    found.probability[row, 0], found.probability[row, 1] = own, other
    found.nobody[row], found.hard[row] = nobody, hard
    return int(found.place[row, 1])


def copied(found: Posterior) -> Posterior:
    return found._replace(
        probability=found.probability.clone(), nobody=found.nobody.clone(), hard=found.hard.clone()
    )


def test_reasons_by_hand(case: Case) -> None:
    """One image of a class each; all the others are as they were, clean."""
    found = copied(case.found)
    rows = [IMAGES * number + 1 for number in range(len(SAID))]
    goes = [put(found, row, *said[:4]) for row, said in zip(rows, SAID, strict=True)]
    result = case.answer(found)
    for row, place, said in zip(rows, goes, SAID, strict=True):
        own, other, _, _, reason, kept, suggested = said
        assert (REASON_NAMES[result.reason[row]], bool(result.kept[row])) == (
            REASON_NAMES[reason],
            kept,
        ), said
        assert result.clean_probability[row] == np.float32(own)
        name = int(case.labelled.classes.class_id[place]) if suggested else -1
        assert result.suggested_label[row] == name, said
        chance = np.float32(other) if suggested else 0
        assert result.suggested_probability[row] == chance, said
    rest = np.setdiff1d(np.arange(len(case.label)), rows)
    assert np.isin(result.reason[rest], [Reason.CLEAN, Reason.HARD]).all()
    assert np.array_equal(result.class_id, np.unique(case.label))
    place = np.searchsorted(result.class_id, case.label)
    assert np.array_equal(result.kept, result.clean_probability > result.threshold[place])
    for none in (result.merge_label, result.duplicate_of):
        assert (none == -1).all()
    assert not result.overlap.any()


def test_what_is_absent_or_confirmed_is_not_judged(case: Case) -> None:
    label = case.label.copy()
    label[3] = -1
    found = answer_of(labelled_as(case.embedding, label, 7), case.model)
    put(found, 7, 1.0, 0.0, 0.0, 0.9)
    result = result_of(found, [])
    for row in (3, 7):
        assert result.reason[row] == Reason.NOT_JUDGED
        assert result.kept[row]
        assert result.clean_probability[row] == 1
        assert result.suggested_label[row] == result.merge_label[row] == -1
    assert (result.reason != Reason.NOT_JUDGED).sum() == len(label) - 2


def test_copies_under_one_label_and_under_two(case: Case) -> None:
    """Of the first of each group nothing is told; a copy that is dropped has its own reason."""
    embedding, label = case.embedding.copy(), case.label
    embedding[1] = 2 * embedding[0]
    embedding[20] = embedding[2]  # person 0 under the name of 3
    labelled = labelled_as(embedding, label)
    result = result_of(answer_of(labelled, case.model), [])
    assert np.flatnonzero(result.duplicate_of >= 0).tolist() == [1, 20]
    assert result.duplicate_of[[1, 20]].tolist() == [0, 2]
    assert result.reason[[0, 1]].tolist() == [Reason.CLEAN, Reason.COPY]
    assert result.kept[[0, 1]].all()
    assert result.reason[20] == Reason.OTHER_IDENTITY
    assert result.suggested_label[20] == label[2]


def test_a_set_of_copies(case: Case) -> None:
    """Every image twice: the second ones are told, and all are kept."""
    half = slice(0, IMAGES * 12)
    embedding = np.concatenate([case.embedding[half], case.embedding[half]])
    label = np.concatenate([case.label[half], case.label[half]])
    labelled = labelled_as(embedding, label)
    model = model_of(labelled)
    result = result_of(answer_of(labelled, model), [])
    count = IMAGES * 12
    assert result.duplicate_of.tolist() == [-1] * count + list(range(count))
    assert (result.reason[count:] == Reason.COPY).all()
    assert result.kept.all()
    assert (result.merge_label == -1).all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3]], ids=str)
def test_an_exchange_is_told_of_both(order: list[int]) -> None:
    """Two classes of two: each is told the other's label, however sure of nobody it was."""
    embedding, person = gaussian_people(1, [2, 2] + [6] * 20 + [2] * 4, image=0.35)
    label = person.copy()
    label[1], label[2] = 1, 0
    embedding[:4], label[:4], person[:4] = embedding[order], label[order], person[order]
    named, labelled = names(label), labelled_as(embedding, names(label))
    model = model_of(labelled_as(embedding, person))
    result = result_of(answer_of(labelled, model), [])
    told = np.flatnonzero(~result.kept)
    assert len(told) == 2
    assert (result.reason[told] == Reason.OTHER_IDENTITY).all()
    assert result.suggested_label[told].tolist() == named[told[::-1]].tolist()
    assert (result.suggested_probability[told] >= 0.5).all()
    assert (result.clean_probability[told] <= 0.5).all()
    mended = named.copy()
    mended[told] = result.suggested_label[told]
    for name in (5, 70):
        assert len(set(person[mended == name])) == 1
    assert (result.merge_label == -1).all()
    assert np.isin(result.reason[np.setdiff1d(np.arange(4), told)], Reason.CLEAN).all()
    # Where a person has verified one of the two, the others are told.
    result = result_of(answer_of(labelled_as(embedding, named, int(told[0])), model), [])
    assert result.clean_probability[told[0]] == 1
    assert np.flatnonzero(~result.kept).tolist() == np.setdiff1d(np.arange(4), told).tolist()


def test_two_names_of_one_person_and_of_an_evaluation_set(case: Case) -> None:
    """Two images of 5 under a name of their own; a photograph of 5 and one of a stranger."""
    label = case.label.copy()
    label[4:6] = 3
    labelled = labelled_as(case.embedding, label)
    centre = case.embedding[:IMAGES].mean(0)
    stranger = random_unit(numpy_generator(1, "stranger"), 1, SIZE)
    evaluation = [stranger, np.stack([centre, stranger[0]])]
    found = answer_of(labelled, case.model)
    result = result_of(found, evaluation)
    assert np.flatnonzero(result.merge_label >= 0).tolist() == [4, 5]
    assert result.merge_label[4] == 5
    assert np.flatnonzero(result.overlap).tolist() == list(range(IMAGES))
    nothing = result_of(found, [stranger])
    assert not nothing.overlap.any()


# Eight rows, of which an earlier overlay drops the third; the labels are 5, 70, 2^40.
ROW_LABEL = IDS[[0, 0, 0, 1, 1, 1, 2, 2]]
ROW_KEPT = np.arange(8) != 2
RESULT = CleaningResult(
    clean_probability=np.array([0.9, 0.2, 0.8, 0.1, 0.7, 1.0, 0.3], np.float32),
    kept=np.array([1, 0, 1, 0, 1, 1, 0], np.bool_),
    suggested_label=np.array([-1, 70, -1, IDS[2], -1, -1, -1]),
    suggested_probability=np.array([0, 0.7, 0, 0.4, 0, 0, 0], np.float32),
    reason=np.array([1, OTHER, H, OTHER, 6, 0, N], np.uint8),
    merge_label=np.array([-1, -1, 5, 5, 5, -1, -1]),
    duplicate_of=np.array([-1, -1, -1, -1, 2, -1, -1]),
    overlap=np.array([1, 1, 0, 0, 0, 0, 0], np.bool_),
    class_id=IDS,
    threshold=np.full(3, 0.5, np.float32),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    folder = tmp_path_factory.mktemp("dataset")
    write_shard(folder / "train.rec", [0] * 8)
    LabelOverlay.make(ROW_LABEL, ROW_KEPT).save(folder / "overlay.npz")
    return FaceDataset.open(folder, (folder / "overlay.npz",))


def test_an_overlay_is_of_rows_and_class_ids(dataset: FaceDataset) -> None:
    assert dataset.class_ids.tolist() == IDS.tolist()
    found = overlay(RESULT, dataset, apply_suggestions=False)
    assert found.label.tolist() == [5, 5, -1, 70, 70, 70, -1, 1 << 40]
    assert found.kept.tolist() == [True, False, True, True, False, True, True, False]
    expected = [0.9, 0.2, np.nan, 0.8, 0.1, 0.7, np.nan, 0.3]
    np.testing.assert_array_equal(found.clean_probability, np.array(expected, np.float32))
    assert found.suggested_label.tolist() == [-1, 70, -1, -1, 1 << 40, -1, -1, -1]
    assert found.merge_label.tolist() == [-1, -1, -1, 5, 5, 5, -1, -1]
    assert found.duplicate_of.tolist() == [-1, -1, -1, -1, -1, 3, -1, -1]  # row 3, image 2
    assert found.overlap.tolist() == [True, True, *[False] * 6]
    assert [found.source_names[one] for one in found.source] == [
        *["clean"] * 2, "", *["clean"] * 3, "", "clean",
    ]  # fmt: skip
    assert found.dataset_fingerprint == dataset.base_fingerprint


def test_suggestions_are_applied_where_more_likely_than_not(dataset: FaceDataset) -> None:
    plain = overlay(RESULT, dataset, apply_suggestions=False)
    found = overlay(RESULT, dataset, apply_suggestions=True)
    assert found.label.tolist() == [5, 70, -1, 70, 70, 70, -1, 1 << 40]
    assert found.kept.tolist() == [True, True, True, True, False, True, True, False]
    for name in ("clean_probability", "suggested_label", "merge_label", "duplicate_of", "source"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), name)


def test_an_overlay_decides_what_it_judged_and_nothing_else(
    dataset: FaceDataset, tmp_path: Path
) -> None:
    """Row 2 stays dropped by the earlier overlay, row 6, which was not judged, stays 2^40's."""
    overlay(RESULT, dataset, apply_suggestions=True).save(tmp_path / "overlay.npz")
    base = np.zeros(8, np.int64)
    earlier = LabelOverlay.make(ROW_LABEL, ROW_KEPT).apply(base, np.ones(8, np.bool_), base)
    label, kept = LabelOverlay.load(tmp_path / "overlay.npz", 8).apply(*earlier, base)
    assert kept.tolist() == [True, True, False, True, False, True, True, False]
    assert label[kept].tolist() == [5, 70, 70, 70, 1 << 40]


def test_numbers_by_hand() -> None:
    label = ROW_LABEL[ROW_KEPT]
    numbers = numbers_of(RESULT, label, None)
    assert numbers == {
        "num_images": 7, "num_classes": 3, "num_kept": 4, "num_dropped": 3, "num_suggested": 2,
        "num_duplicates": 1, "num_merges": 1, "num_overlapping_classes": 1,
        "num_not_judged": 1, "num_clean": 1, "num_another_identity": 2,
        "num_nobody_in_the_set": 1, "num_hard_image": 1, "num_ambiguous": 0, "num_copy": 1,
    }  # fmt: skip
    is_clean = np.array([1, 0, 1, 0, 0, 1, 1], np.bool_)
    known = numbers_of(RESULT, label, is_clean)
    assert known.items() >= numbers.items()
    assert (known["num_found"], known["num_missed"], known["num_wrongly_dropped"]) == (2, 1, 1)


def test_one_person_under_two_names_of_one_image_each_keeps_one() -> None:
    """Each image would rather be under the other's name; the first stays, the labels are joined."""
    embedding, person = gaussian_people(0, [2] + [6] * 20, image=0.3)
    label = person.copy()
    label[1] = 99
    labelled = labelled_as(embedding, label)
    model = model_of(labelled)
    found = answer_of(labelled, model)
    for row in (0, 1):
        put(found, row, 0.05, 0.9, 0.05, 0.0)
        other = int(labelled.place_of_row[1 - row])
        found.place[row, 1] = other
    result = result_of(found, excluded=[])
    assert result.kept[:2].tolist() == [True, False]
    assert result.suggested_label[:2].tolist() == [-1, 0]
    assert result.reason[0] == Reason.CLEAN
    assert result.clean_probability[0] > 0.5
