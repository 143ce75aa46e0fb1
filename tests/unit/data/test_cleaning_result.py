"""The answer of a cleaning as a file: what comes back, and what is refused with which words."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facetrain.core.errors import DataError
from facetrain.data.cleaning_result import REASON_NAMES, CleaningResult, Reason

IDS = np.array([5, 70, 1 << 40])
RESULT = CleaningResult(
    clean_probability=np.array([0.9, 0.2, 1.0, 0.4], np.float32),
    kept=np.array([1, 0, 1, 0], np.bool_),
    suggested_label=np.array([-1, 2, -1, 0]),
    suggested_probability=np.array([0, 0.7, 0, 0.5], np.float32),
    reason=np.array([1, 2, 0, 5], np.uint8),
    merge_label=np.array([-1, 0, -1, 2]),
    duplicate_of=np.array([-1, 0, -1, -1]),
    overlap=np.array([0, 1, 0, 0], np.bool_),
    class_id=np.arange(3),
    threshold=np.array([0.5, 0.4, 0.6], np.float32),
)


def test_each_reason_has_its_name() -> None:
    assert len(REASON_NAMES) == len(Reason)
    assert {REASON_NAMES[one]: one.name for one in Reason} == {
        "not judged": "NOT_JUDGED", "clean": "CLEAN", "another identity": "OTHER_IDENTITY",
        "nobody in the set": "NOBODY", "hard image": "HARD", "ambiguous": "AMBIGUOUS",
        "copy": "COPY",
    }  # fmt: skip


def test_numbers_become_what_the_set_calls_its_classes() -> None:
    named = RESULT.named(IDS)
    assert named.suggested_label.tolist() == [-1, 1 << 40, -1, 5]
    assert named.merge_label.tolist() == [-1, 5, -1, 1 << 40]
    assert named.class_id.tolist() == IDS.tolist()
    for field in dataclasses.fields(RESULT):
        if field.name not in ("suggested_label", "merge_label", "class_id"):
            assert getattr(named, field.name) is getattr(RESULT, field.name)
    # Classes that the answer does not have leave gaps: 1 is called 70 whatever stands beside it.
    some = dataclasses.replace(RESULT, class_id=np.array([0, 2]), threshold=RESULT.threshold[:2])
    assert some.named(IDS).class_id.tolist() == [5, 1 << 40]


@pytest.mark.parametrize("result", [RESULT, RESULT.named(IDS)], ids=["numbers", "class ids"])
def test_what_was_saved_comes_back(result: CleaningResult, tmp_path: Path) -> None:
    other = dataclasses.replace(result, reason_names=(*REASON_NAMES, "más"))
    other.save(tmp_path / "clean.npz")
    found = CleaningResult.load(tmp_path / "clean.npz")
    for field in dataclasses.fields(other):
        before, after = getattr(other, field.name), getattr(found, field.name)
        if field.name == "reason_names":
            assert after == before
        else:
            assert after.dtype == before.dtype
            np.testing.assert_array_equal(after, before, field.name)
    assert [path.name for path in tmp_path.iterdir()] == ["clean.npz"]


def test_an_answer_about_nothing(tmp_path: Path) -> None:
    none = CleaningResult(
        *(getattr(RESULT, field.name)[:0] for field in dataclasses.fields(RESULT)[:-1])
    )
    none.save(tmp_path / "clean.npz")
    assert CleaningResult.load(tmp_path / "clean.npz").kept.shape == (0,)


def columns(**change: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {**vars(RESULT), "reason_names": np.array(REASON_NAMES), **change}
    return {name: array for name, array in arrays.items() if array is not None}


WRONG = [
    ({"reason": None}, "but lacks reason, as files of facetrain 0.1 do; remove .* clean again"),
    ({"suggested_probability": None}, "but lacks suggested_probability"),
    ({"kept": np.ones(4)}, r"kept must be \(4,\) of kind 'b', got \(4,\) of float64"),
    ({"kept": np.ones(5, np.bool_)}, r"clean_probability must be \(5,\) .* got \(4,\)"),
    ({"overlap": np.ones(3, np.bool_)}, r"overlap must be \(4,\) of kind 'b', got \(3,\)"),
    ({"class_id": np.arange(4)}, r"class_id must be \(3,\) of kind 'iu', got \(4,\)"),
    ({"threshold": np.float32(0.5)}, r"class_id must be \(1,\) .* got \(3,\)"),
    ({"kept": np.bool_(True)}, r"clean_probability must be \(1,\) .* got \(4,\)"),
    ({"suggested_label": np.array([-1, 2.0, -1, 0])}, "suggested_label must be .* kind 'iu'"),
    ({"reason": np.array([1, 2, 0, 7], np.uint8)}, "reason must be from 0 to 6, got 7 at 3"),
    ({"reason": np.array([1, 2, 0, -1])}, "reason must be"),
    ({"clean_probability": np.array([0.9, np.nan, 1, 0], np.float32)}, "got nan at 1"),
    ({"clean_probability": np.array([0.9, 0.2, 1.5, 0], np.float32)}, "got 1.5 at 2"),
    ({"suggested_probability": np.array([-1, 0, 0, 0], np.float32)}, "from 0 to 1, got -1.0 at 0"),
    ({"suggested_label": np.array([-2, 2, -1, 0])}, "suggested_label must be from -1"),
    ({"merge_label": np.array([-1, 0, -1, np.iinfo(np.int64).max])}, "merge_label must be from -1"),
    ({"class_id": np.array([-1, 2, 3])}, "class_id must be from 0"),
    ({"duplicate_of": np.array([-1, 0, -1, 4])}, "duplicate_of must be from -1 to 3, got 4 at 3"),
    ({"reason_names": np.arange(7)}, "reason_names must be text, got int64"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_not_an_answer_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "clean.npz"
    np.savez(path, **columns(**change))
    with pytest.raises(DataError, match=message) as raised:
        CleaningResult.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("part", [0, 1, 200, 0.5, 0.9])
def test_a_cut_file_is_refused(part: float, tmp_path: Path) -> None:
    path = tmp_path / "clean.npz"
    RESULT.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole)) if isinstance(part, float) else part])
    with pytest.raises(DataError, match=r"must be the result of a cleaning \(.npz\)"):
        CleaningResult.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="but there is no such file"):
        CleaningResult.load(tmp_path / "clean.npz")
