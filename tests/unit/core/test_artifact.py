import errno
import io
import os
import time
from pathlib import Path

import pytest

from facetrain.core import digest
from facetrain.core.artifact import (
    atomic_path,
    fingerprint,
    finished,
    read_json,
    write_json,
    write_manifest,
)
from facetrain.core.config import Config
from facetrain.core.errors import DataError, OutputError


class Settings(Config):
    seed: int = 0


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_names_the_file_by_the_name_that_it_would_have_had(
    tmp_path: Path, named: bool
) -> None:
    def fill() -> None:
        with atomic_path(tmp_path / "set") as temporary:
            temporary.mkdir()
            if named:
                raise OSError(errno.ENOSPC, "No space left on device", str(temporary / "a.jpg"))
            with atomic_path(temporary / "train.rec"):
                raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError) as raised:
        fill()
    name = "set" if named else "set/train.rec"
    assert str(raised.value).startswith(f"{tmp_path / name}: must be writable, but No space left")
    assert os.listdir(tmp_path) == []


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert os.listdir(path) == ["second"]
    assert os.listdir(tmp_path) == ["folder"]


def test_fingerprint_sees_content_size_and_names(tmp_path: Path) -> None:
    big = tmp_path / "set" / "big"
    big.parent.mkdir()
    seen = set()
    content = bytearray(5 << 20)
    for change in (None, 0, len(content) // 2 + 5, len(content) - 1):
        if change is not None:
            content[change] ^= 1
        big.write_bytes(content)
        seen |= {fingerprint(big), fingerprint(big.parent)}
    big.rename(big.with_name("other"))
    seen |= {fingerprint(big.parent)}
    assert len(seen) == 9
    before = fingerprint(big.parent)
    (big.parent / ".hidden").touch()
    assert fingerprint(big.parent) == before


def test_fingerprint_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing: must be a file or a folder"):
        fingerprint(tmp_path / "nothing")


def test_a_stage_is_finished_for_the_same_config_and_inputs_only(tmp_path: Path) -> None:
    assert finished(tmp_path, "embed", Settings(), {"data": "a"}) is None
    write_manifest(
        tmp_path, "embed", Settings(), {"data": "a"}, {"n": 1}, started=time.time(), world_size=1
    )
    artifact = finished(tmp_path, "embed", Settings(), {"data": "a"})
    assert artifact is not None
    assert artifact.metrics == {"n": 1}
    assert finished(tmp_path, "embed", Settings(seed=1), {"data": "a"}) is None
    assert finished(tmp_path, "embed", Settings(), {"data": "b"}) is None
    assert finished(tmp_path, "train", Settings(), {"data": "a"}) is None


def test_broken_json_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    (tmp_path / "a.json").write_text('{"x":')
    with pytest.raises(DataError, match=r"a\.json: must be a readable JSON file"):
        read_json(tmp_path / "a.json")


def test_too_few_descriptors_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a stage would be done again, or a good checkpoint set aside."""
    (tmp_path / "numbers.npy").write_bytes(b"numbers")
    write_manifest(tmp_path, "work", Settings(), {}, {}, started=time.time(), world_size=1)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for where in (digest, io):
        with monkeypatch.context() as patch:
            patch.setattr(where, "open", refused, raising=False)
            digest._file_digest.cache_clear()
            with pytest.raises(OSError, match="Too many open"):
                finished(tmp_path, "work", Settings(), {})
    assert finished(tmp_path, "work", Settings(), {}) is not None
