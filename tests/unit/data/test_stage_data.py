"""The note of what a stage judged survives a move of the run, and a data set outside of it."""

import json
import shutil
from pathlib import Path

import pytest

from facetrain.core.errors import ConfigError
from facetrain.core.run_folder import DATA_FILE
from facetrain.data.dataset import DataConfig
from facetrain.data.stage_data import read_stage_data, write_stage_data


def test_paths_inside_the_run_move_with_it_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # paths as a person types them, relative
    (tmp_path / "run").mkdir()
    overlay = (Path("run/noise/overlay.npz"), Path("other.npz"))
    data = DataConfig(path=Path("run/data"), overlay=overlay, on_corrupt="skip")
    write_stage_data(Path("run/clean"), data)
    shutil.move(tmp_path / "run", tmp_path / "deep" / "moved")
    monkeypatch.chdir("/")
    moved = tmp_path / "deep" / "moved"
    assert read_stage_data(moved / "clean") == data.model_copy(
        update={
            "path": (moved / "data",),
            "overlay": (moved / "noise" / "overlay.npz", tmp_path / "other.npz"),
        }
    )


def test_no_note_is_none_and_a_strange_one_is_an_error(tmp_path: Path) -> None:
    assert read_stage_data(tmp_path) is None
    (tmp_path / DATA_FILE).write_text(json.dumps({"path": "a", "colour": 3}))
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        read_stage_data(tmp_path)
    (tmp_path / DATA_FILE).write_text("[1]")
    with pytest.raises(ConfigError, match="must be a mapping"):
        read_stage_data(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"junk", b"null", b"\xff", b"[" * 100_000])
def test_a_damaged_note_is_written_again(tmp_path: Path, damage: bytes) -> None:
    data = DataConfig(path=(tmp_path / "set",))
    write_stage_data(tmp_path / "clean", data)
    note = (tmp_path / "clean/data.json").read_bytes()
    (tmp_path / "clean/data.json").write_bytes(damage)
    write_stage_data(tmp_path / "clean", data)
    assert (tmp_path / "clean/data.json").read_bytes() == note
