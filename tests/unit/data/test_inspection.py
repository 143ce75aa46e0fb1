"""What inspect says of whole and damaged data sets."""

from pathlib import Path

import numpy as np
import pytest
from helpers.shards import offsets, picture, write_flat, write_shard

from facetrain.core.errors import DataError
from facetrain.data import inspection
from facetrain.data.inspection import inspect


def write(path: Path, labels: list[int], spoiled: tuple[int, ...] = ()) -> Path:
    keys = range(1, len(labels) + 1)
    return write_shard(path, labels, [b"garbage" if k in spoiled else picture(99) for k in keys])


def test_counts_and_histogram_by_hand(tmp_path: Path) -> None:
    # Identities of 1, 2, 3 and 5 images: median 2.5, mean 11 / 4.
    labels = [0] + [1] * 2 + [2] * 3 + [3] * 5
    result = inspect(write(tmp_path / "a.rec", labels), show_progress=False)
    assert result == {
        "num_images": 11,
        "num_identities": 4,
        "layout": "header",
        "num_shards": 1,
        "unreadable": [],
        "suspect": [],
        "invalid_label": [],
        "merged_label": [],
        "class_histogram": {
            "min": 1,
            "median": 2.5,
            "mean": 2.75,
            "max": 5,
            "bins": {"1": 1, "2": 1, "3-4": 1, "5-8": 1},
        },
        "index_rebuilt": [],
    }


def test_every_kind_of_unreadable_record_is_listed_and_the_rest_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [0, 0, 1, 1, 2, 2], spoiled=(2,))
    offset_of, data = offsets(path), bytearray(path.read_bytes())
    data[offset_of[4]] ^= 1  # wrong magic
    data = data[: offset_of[8] + 10]  # cut within identity record 8; 9 and 0 are gone
    path.write_bytes(data)
    result = inspect(path, show_progress=False)
    assert result["unreadable"] == [0, 2, 4, 8, 9]
    assert (result["num_images"], result["num_identities"]) == (4, 3)
    assert result["layout"] == "header"
    assert result["index_rebuilt"] == []


@pytest.mark.parametrize("content", [b"x", b"no records here, only text. " * 40, picture(1)])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    """Not one record of it would be counted; a damaged shard still shows where one begins."""
    (tmp_path / "a.rec").write_bytes(content)
    with pytest.raises(DataError, match=rf"a.rec: must be a .rec .* its {len(content)} bytes no"):
        inspect(tmp_path, show_progress=False)
    path = write(tmp_path / "b.rec", [0], spoiled=(1,))
    path.with_suffix(".idx").unlink()
    assert inspect(path, show_progress=False)["unreadable"] == [1]


def test_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.rec", [0, 1], spoiled=(1,))
    write(tmp_path / "b.rec", [1, 2, 3], spoiled=(3,))
    (tmp_path / "b.idx").unlink()
    result = inspect(tmp_path, show_progress=False)
    assert result["unreadable"] == ["a.rec:1", "b.rec:3"]
    assert (result["num_images"], result["num_identities"], result["num_shards"]) == (3, 2, 2)
    assert result["index_rebuilt"] == ["b.rec"]


def test_labels_that_are_no_class_are_listed(tmp_path: Path) -> None:
    write_flat(tmp_path / "a.rec", [0, np.nan, 1, -4])
    result = inspect(tmp_path, show_progress=False)
    assert result["layout"] == "flat"
    assert result["invalid_label"] == [1, 3]
    assert (result["num_images"], result["num_identities"]) == (4, 2)


def test_several_processes_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.rec", list(range(20)), spoiled=(3, 17))
    monkeypatch.setattr(inspection, "_CHUNK", 3)
    monkeypatch.setattr(inspection, "_IMAGES_PER_WORKER", 1)
    result = inspect(path, workers=2, show_progress=False)
    assert result["unreadable"] == [3, 17]
    assert result == inspect(path, workers=1, show_progress=False)


def test_real_faces(lfw: Path) -> None:
    result = inspect(lfw / "train.rec", show_progress=False)
    assert (result["num_images"], result["num_identities"]) == (8309, 3802)
    assert (result["unreadable"], result["layout"]) == ([], "header")
    assert sum(result["class_histogram"]["bins"].values()) == 3802
