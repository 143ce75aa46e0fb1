"""A pack that is killed, damaged or short of disk: what the next start makes of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.packing import files, picture, run

from facetrain.core.errors import DataError, OutputError
from facetrain.data.images.codec import encode_jpeg


class Killed(BaseException):
    pass


def test_interrupted_at_any_rename_it_continues_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file appears by os.replace, so these are all the states a folder can be in."""
    run(folder, tmp_path / "wanted", num_shards=3)
    wanted = files(tmp_path / "wanted")
    replace, renames = os.replace, 0

    def count(source: Path, target: Path) -> None:
        nonlocal renames
        if renames == stop_at:
            raise Killed
        renames += 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", count)
    for stop_at in range(100):
        renames, out = 0, tmp_path / f"out{stop_at}"
        try:
            run(folder, out, num_shards=3)
            break
        except Killed:
            before = {p: p.stat().st_mtime_ns for p in out.glob("train-*.rec")}
            finished = [p for p in before if (out / f".{p.stem}.json").exists()]
        stopped, stop_at_now, stop_at = stop_at, stop_at, -1
        run(folder, out, num_shards=3)
        stop_at = stop_at_now
        assert files(out) == wanted, f"killed at rename {stopped}"
        assert all(p.stat().st_mtime_ns == before[p] for p in finished)
    # claim, 3 x (.rec, .idx, .lst, mark); skipped, ignored, suspect, classes, property, manifest
    assert stop_at == 19


KILL = """
import os, signal, sys
from pathlib import Path
from facetrain.data.shards import face_shard
from facetrain.data.packing.pack_image import PackOptions
from facetrain.data.packing.pack import pack
write, calls = face_shard.FaceShardWriter.write, 0
def die(self, label, encoded):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, label, encoded)
face_shard.FaceShardWriter.write = die
pack(Path(sys.argv[1]), Path(sys.argv[2]), PackOptions(size=24, show_progress=False), num_shards=3)
"""


def test_kill_9_leaves_no_litter_after_the_next_start(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILL, str(folder), str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert any(p.suffix == ".tmp" for p in out.iterdir())
    assert not (out / "manifest.json").exists()
    run(folder, out, num_shards=3)
    run(folder, tmp_path / "wanted", num_shards=3)
    assert files(out) == files(tmp_path / "wanted")


@pytest.mark.parametrize("suffix", ["rec", "idx", "lst"])
def test_a_finished_shard_of_which_a_bit_has_changed_is_packed_again(
    folder: Path, tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the same size and date, so that only the bytes tell."""
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", KILL, str(folder), str(out)], check=False)
    changed = out / f"train-00000.{suffix}"
    damaged, date = bytearray(changed.read_bytes()), changed.stat().st_mtime_ns
    damaged[-3] ^= 1
    changed.write_bytes(damaged)
    os.utime(changed, ns=(date, date))
    run(folder, out, num_shards=3)
    assert "train-00000.rec: the shard has changed since it was packed" in caplog.text
    run(folder, tmp_path / "wanted", num_shards=3)
    assert files(out) == files(tmp_path / "wanted")


def test_full_disk_passes_up_and_keeps_finished_shards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fsync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:  # claim, then .rec, .idx, .lst, mark of the first shard
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"train-00001\.rec: must be writable.*No space left"):
            run(folder, out, num_shards=3)
    assert [p.name for p in sorted(out.glob("*.rec"))] == ["train-00000.rec"]
    assert not list(out.glob(".*.tmp"))
    run(folder, out, num_shards=3)
    run(folder, tmp_path / "wanted", num_shards=3)
    assert files(out) == files(tmp_path / "wanted")


def test_finished_pack_is_not_done_again_and_another_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(folder, out)
    before = (out / "train.rec").stat().st_mtime_ns, (out / "manifest.json").read_bytes()
    run(folder, out)
    assert before == ((out / "train.rec").stat().st_mtime_ns, (out / "manifest.json").read_bytes())
    with pytest.raises(DataError, match="holds another data set"):
        run(folder, out, quality=80)
    (folder / "a" / "new.jpg").write_bytes(encode_jpeg(picture(50)))
    with pytest.raises(DataError, match="holds another data set"):
        run(folder, out)


@pytest.mark.parametrize(
    "name", ["train.lst", "train-00000.idx", "other.rec", "property", "landmarks.csv"]
)
def test_what_somebody_else_left_is_not_written_over(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """A list that is packed into its own folder, say."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(DataError, match=f"holds another data set \\({name}\\)"):
        run(folder, out)
    assert files(out) == {name: b"mine"}


def test_a_failed_pack_removes_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / "bad/ann").mkdir(parents=True)
    (tmp_path / "bad/ann/1.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    out.mkdir()
    kept = {"train.csv": b"mine", "train_notes.txt": b"mine", "training.lst": b"mine"}
    for name, content in kept.items():
        (out / name).write_bytes(content)
    with pytest.raises(DataError, match="none of the 1 images can be packed"):
        run(tmp_path / "bad", out)
    assert files(out) == kept


def test_a_finished_pack_that_was_damaged_is_packed_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out, num_shards=2)
    wanted = files(out)
    path = out / "train-00001.rec"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run(folder, out, num_shards=2)
    assert files(out) == wanted
