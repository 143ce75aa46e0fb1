"""A session against the data set that its overlay makes, and its lists against brute force."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reviews import write_run

from facetrain.core.errors import DataError
from facetrain.core.rng import numpy_generator
from facetrain.core.run_folder import DATA_FILE
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import Reason
from facetrain.data.dataset import FaceDataset
from facetrain.data.review_journal import open_journal
from facetrain.review.review_overlay import refresh
from facetrain.review.session import IDENTITIES_A_PAGE, RequestError, Session

NUM_CLASSES, PER_CLASS = 150, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), NUM_CLASSES, PER_CLASS)


@pytest.fixture(scope="module")
def run(folder: Path) -> CleanedSet:
    return CleanedSet.open_run(folder)


@pytest.fixture
def session(run: CleanedSet, tmp_path: Path) -> Iterator[Session]:
    dataset = run.dataset
    journal = tmp_path / "journal.jsonl"
    with open_journal(journal, dataset.base_fingerprint, dataset.num_rows) as writer:
        yield Session(run, writer)


def standing(session: Session) -> dict[int, tuple[int, bool]]:
    """Row -> class id and kept, as every identity's page shows it."""
    seen: dict[int, tuple[int, bool]] = {}
    for identity in everything(session):
        page = session.identity(identity["id"], 0, "priority")
        assert page["total"] == len(page["faces"])
        for face in page["faces"]:
            assert seen.setdefault(face["row"], (face["label"], face["kept"])) == (
                face["label"],
                face["kept"],
            )
    return seen


def everything(session: Session, chosen: str = "all", search: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = session.identities(chosen, search, len(found), anew=not found)
        found += page["identities"]
        assert len(page["identities"]) <= IDENTITIES_A_PAGE
        if len(found) == page["total"]:
            return found


def opened(folder: Path, *more: Path) -> dict[int, int]:
    """Row -> class id of what a training would see."""
    overlays = [folder.parent / "noise" / "overlay.npz", folder / "clean" / "overlay.npz", *more]
    dataset = FaceDataset.open(folder.parent / "faces", overlays)
    return dict(zip(dataset.row.tolist(), dataset.class_ids[dataset.label].tolist(), strict=True))


def decide_at_random(session: Session, seed: int, number: int) -> None:
    generator = numpy_generator(seed, "decisions")
    ids = session.cleaned.dataset.class_ids
    for _ in range(number):
        kind = str(generator.choice(["keep", "drop", "move", "merge", "swap", "undo", "redo"]))
        one, other = (int(i) for i in generator.choice(ids, 2, replace=False))
        try:
            if kind == "undo":
                session.undo()
            elif kind == "redo":
                session.redo()
            else:
                faces = session.identity(one, 0, "priority")["faces"]
                chosen = generator.choice(len(faces), min(3, len(faces)), replace=False)
                rows = [faces[i]["row"] for i in chosen]
                if kind == "swap":
                    image = int(generator.choice(session.cleaned.swaps().ravel()))
                    rows = [int(session.cleaned.dataset.row[image])]
                session.decide(kind, one, rows, other)
        except RequestError:
            if kind not in ("undo", "redo", "merge"):  # nothing there, or one already
                raise


def test_before_any_decision_it_shows_what_the_cleaner_left(folder: Path, session: Session) -> None:
    shown = standing(session)
    assert {row: label for row, (label, kept) in shown.items() if kept} == opened(folder)
    assert len(shown) == session.cleaned.dataset.num_images  # the dropped are shown as well
    assert session.progress()["decisions"] == 0


def test_what_is_shown_is_what_a_training_sees(
    folder: Path, session: Session, tmp_path: Path
) -> None:
    """The oracle opens the data set with the overlay; the session never reads that file."""
    for seed in range(3):
        decide_at_random(session, seed, 60)
        refresh(tmp_path / "overlay.npz")
        shown = standing(session)
        assert {row: label for row, (label, kept) in shown.items() if kept} == opened(
            folder, tmp_path / "overlay.npz"
        )
    # A session that starts from the journal stands where this one does.
    assert standing(Session(session.cleaned, session.journal)) == shown
    # And when all is taken back, it is as the cleaner left it.
    while session.progress()["decisions"]:
        session.undo()
    refresh(tmp_path / "overlay.npz")
    assert opened(folder, tmp_path / "overlay.npz") == opened(folder)
    assert {r: la for r, (la, kept) in standing(session).items() if kept} == opened(folder)


def test_the_list_is_by_what_a_look_is_worth_and_stays_while_it_is_read(session: Session) -> None:
    listed = everything(session)
    assert sorted(one["id"] for one in listed) == session.cleaned.dataset.class_ids.tolist()
    worth = [one["priority"] for one in listed]
    assert worth == sorted(worth, reverse=True)
    assert worth[0] > worth[-1]
    first = session.identities("unseen", "", 0, anew=True)["identities"]
    for one in first[:5]:
        session.mark_seen(one["id"])
    again = session.identities("unseen", "", 0, anew=False)["identities"]
    assert [one["id"] for one in again] == [one["id"] for one in first]
    assert [one["seen"] for one in again[:6]] == [True] * 5 + [False]
    anew = session.identities("unseen", "", 0, anew=True)
    assert anew["identities"][0]["id"] == first[5]["id"]
    assert anew["total"] == NUM_CLASSES - 5 == NUM_CLASSES - session.progress()["seen"]


def test_filters_find_what_the_cleaner_said(session: Session) -> None:
    run = session.cleaned
    label, ids, reason = run.dataset.label, run.dataset.class_ids, run.result.reason
    wanted = {
        "ambiguous": set(ids[label[reason == Reason.AMBIGUOUS]].tolist()),
        "nobody": set(ids[label[reason == Reason.NOBODY]].tolist()),
        "merges": set(ids[run.merge >= 0].tolist()),
        "other": set(ids[label[run.suggested >= 0]].tolist()),
        "swaps": set(ids[label[run.swaps().ravel()]].tolist()),
        "copies": set(ids[label[run.result.duplicate_of >= 0]].tolist()),
        "decided": set(),
    }
    for chosen, identities in wanted.items():
        assert {one["id"] for one in everything(session, chosen)} == identities
        assert bool(identities) == (chosen != "decided")
    one = everything(session)[3]["id"]
    session.decide("drop", one, [session.identity(one, 0, "priority")["faces"][0]["row"]], None)
    assert [found["id"] for found in everything(session, "decided")] == [one]
    with pytest.raises(RequestError, match="no such filter"):
        session.identities("none", "", 0, anew=True)


def test_search_by_id_and_name(run: CleanedSet, session: Session, tmp_path: Path) -> None:
    ids = run.dataset.class_ids.tolist()  # 1000, 1003, ...
    found = [one["id"] for one in everything(session, search="103")]
    assert sorted(found) == [label for label in ids if str(label).startswith("103")]
    assert everything(session, search="1030")[0]["id"] == 1030
    assert everything(session, search="nobody") == []
    named = dataclasses.replace(run, names=tuple(f"Ann {n}" for n in range(NUM_CLASSES)))
    names = Session(named, session.journal)
    assert {one["name"] for one in everything(names, search="ann 1")} == {
        f"Ann {n}" for n in range(NUM_CLASSES) if str(n).startswith("1")
    }
    assert everything(names, search=" ANN 14 ")[0]["name"] == "Ann 14"


def test_faces_are_in_the_order_asked_for_page_by_page(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = everything(session)[0]["id"]
    whole = session.identity(one, 0, "probability")["faces"]
    own = [face for face in whole if face["home"] == one]
    assert [f["probability"] for f in own] == sorted(f["probability"] for f in own)
    monkeypatch.setattr("facetrain.review.session.FACES_A_PAGE", 3)
    offsets = range(0, len(whole), 3)
    pages = [session.identity(one, offset, "probability")["faces"] for offset in offsets]
    assert [face for page in pages for face in page] == whole


def test_merging_takes_along_what_stands_there_and_what_is_kept_later(session: Session) -> None:
    listed = [one["id"] for one in everything(session) if not one["arrived"]]
    source, target, third = listed[:3]
    before = session.identity(source, 0, "priority")["faces"]
    dropped = [face["row"] for face in before if not face["kept"]]
    session.decide("merge", source, [], target)
    after = session.identity(source, 0, "priority")
    assert after["merged_into"] == target
    for face in after["faces"]:
        if face["row"] in dropped:
            assert not face["kept"]
        elif face["home"] == source and face["action"]:
            assert (face["label"], face["kept"]) == (target, True)
    session.decide("merge", target, [], third)  # and on
    assert session.identity(source, 0, "priority")["merged_into"] == third
    with pytest.raises(RequestError, match="one identity already"):
        session.decide("merge", source, [], third)
    row = after["faces"][0]["row"]
    (face,) = session.decide("keep", source, [row], None)["faces"]
    assert (face["label"], face["kept"]) == (third, True)
    session.undo()
    session.undo()
    assert session.identity(source, 0, "priority")["merged_into"] == target


def test_a_swap_is_one_decision_for_both(session: Session) -> None:
    cleaned = session.cleaned
    ids, label = cleaned.dataset.class_ids, cleaned.dataset.label
    one, other = cleaned.swaps()[0].tolist()
    rows, homes = cleaned.dataset.row[[one, other]], ids[label[[one, other]]]
    faces = session.identity(int(homes[0]), 0, "priority")["faces"]
    face = next(face for face in faces if face["row"] == rows[0])
    assert (face["swap_with"], face["suggested"]) == (rows[1], homes[1])
    before = standing(session)
    changed = session.decide("swap", int(homes[0]), [int(rows[0])], None)["faces"]
    assert {face["row"]: (face["label"], face["kept"]) for face in changed} == {
        rows[0]: (homes[1], True), rows[1]: (homes[0], True),
    }  # fmt: skip
    assert session.progress()["decisions"] == 1
    assert standing(Session(cleaned, session.journal)) == standing(session)
    session.undo()
    assert standing(session) == before
    alone = next(face["row"] for face in faces if face["swap_with"] is None)
    for wrong in ([alone], rows.tolist()):
        with pytest.raises(RequestError, match="one image that is swapped"):
            session.decide("swap", int(homes[0]), wrong, None)


def test_what_cannot_be_is_refused_and_not_journalled(session: Session) -> None:
    dataset = session.cleaned.dataset
    one, row = int(dataset.class_ids[0]), int(dataset.row[0])
    absent = int(np.setdiff1d(np.arange(dataset.num_rows), dataset.row)[0])
    for action, identity, rows, to in (
        ("drop", one, [], None), ("drop", one, [dataset.num_rows], None),
        ("drop", one, [row, absent], None), ("move", one, [row], None),
        ("move", one, [row], one + 1), ("keep", one + 1, [row], None), ("shoot", one, [row], None),
        ("merge", one, [], one), ("undo", one, [row], None),
    ):  # fmt: skip
        with pytest.raises(RequestError):
            session.decide(action, identity, rows, to)
    with pytest.raises(RequestError, match="nothing to undo"):
        session.undo()
    with pytest.raises(RequestError, match="nothing to redo"):
        session.redo()
    with pytest.raises(RequestError, match="no identity"):
        session.mark_seen(one + 1)
    assert session.progress()["decisions"] == 0


def test_pictures_are_the_shards_own_bytes(session: Session) -> None:
    dataset = session.cleaned.dataset
    for image in (0, 7, dataset.num_images - 1):
        kind, content = session.picture(int(dataset.row[image]))
        assert (kind, content) == ("image/jpeg", dataset.encoded(image))
    absent = int(np.setdiff1d(np.arange(dataset.num_rows), dataset.row)[0])
    for row in (absent, dataset.num_rows):
        with pytest.raises(RequestError, match="no image"):
            session.picture(row)


def test_a_folder_without_a_cleaned_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished stage clean"):
        CleanedSet.open_run(tmp_path)
    shutil.copytree(folder / "clean", tmp_path / "clean")
    (tmp_path / "clean" / DATA_FILE).unlink()
    with pytest.raises(DataError, match="must say which data set was cleaned"):
        CleanedSet.open_run(tmp_path)
