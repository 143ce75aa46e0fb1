"""The exit statuses that scripts tell apart, each triggered as a user would."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Call


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file beyond 20 kB can be written: what a full disk does, as the kernel sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_help_documents_every_status(call: Call) -> None:
    stdout = call.done("--help")
    listed = stdout.partition("Exit status:")[2]
    assert re.findall(r"^ +(\d+) ", listed, re.MULTILINE) == [
        "0",
        "2",
        "3",
        "4",
        "130",
        "141",
        "143",
    ]
    assert call("--version")[0] == 0


def test_divergence_is_3(call: Call, recipe: Path, tmp_path: Path) -> None:
    overrides = ("optimizer.learning_rate=1e6", "head.scale=64")
    assert "lower optimizer.learning_rate" in call.refused(
        "train", recipe, "--out", tmp_path, *overrides, status=3
    )
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "{recipe}", "--out", "{recipe}"), "recipe.yaml: must be writable, but File exi"),
        (("train", "{recipe}", "--out", "{recipe}/o"), "recipe.yaml/o: must be writable, but Not"),
        (("inspect", "{faces}", "--json", "{tmp}/dir"), "/dir: must be writable, but Is a direct"),
        (("inspect", "{faces}", "--json", "{tmp}/" + 300 * "x"), "File name too long"),
        (("inspect", "{faces}", "--json", ""), ".: must be writable, but Is a directory"),
        (("inspect", "{faces}", "--json", "/"), "/: must be writable, but Is a directory"),
    ],
)
def test_not_writable_is_4(
    call: Call, recipe: Path, faces: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "dir" / "full").mkdir(parents=True)
    assert message in call.refused(
        *(a.format(recipe=recipe, faces=faces, tmp=tmp_path) for a in arguments), status=4
    )


def test_what_is_no_file_is_not_renamed_over(call: Call, faces: Path, tmp_path: Path) -> None:
    """As root `--json /dev/null` would take it from the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        told = call.refused("inspect", faces, "--json", tmp_path / name, status=4)
        assert f"{name}: must be a file, but is a device, pipe or socket" in told
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_a_name_with_nul_is_2(call: Call, faces: Path) -> None:
    assert "must not hold NUL" in call.refused("inspect", faces, "--json", "a\0b")
    assert "must not hold NUL" in call.refused("inspect", "a\0b")


def test_no_space_is_4(call: Call, recipe: Path, tmp_path: Path, small_files: None) -> None:
    call.refused("train", recipe, "--out", tmp_path / "o", status=4)
    assert not (tmp_path / "o" / "manifest.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal(recipe: Path, tmp_path: Path, number: int) -> None:
    """Status 130 or 143, and the last line says that it goes on; SIGTERM leaves a checkpoint."""
    command = [sys.executable, "-m", "facetrain", "train", str(recipe), "--out", str(tmp_path)]
    overrides = ["train.epochs=100000", "train.log_every=1", "train.checkpoint_every=100000"]
    process = subprocess.Popen(
        [*command, *overrides, "data.workers=1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "step " in line:
                break
        os.killpg(process.pid, number)  # its loader workers, too
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 128 + number
    finally:
        process.kill()
    assert "Traceback" not in rest
    assert "the same command continues" in rest.splitlines()[-1]
    checkpoints = list((tmp_path / "checkpoints").glob("step_*"))
    assert len(checkpoints) == (number == signal.SIGTERM)


def shell(text: str) -> tuple[int, str]:
    """Status and output of a shell's line, in which $F is facetrain; stdout and stderr together."""
    line = f'F="{sys.executable} -m facetrain"; {text}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("$F --help >&-", 0, ""),
        ("$F --help >/dev/full", 4, "output: must be writable, but No space left"),
        ("$F inspect nothing 2>/dev/full", 2, ""),
        ("$F inspect nothing 2>&-", 2, ""),
        ("mkdir $T/gone; cd $T/gone; rmdir $T/gone; $F config", 2, "directory must exist, but No"),
    ],
)
def test_streams_that_lead_nowhere(tmp_path: Path, text: str, status: int, said: str) -> None:
    """A status of the contract wherever the output goes, and nothing said of our own doing."""
    found, output = shell(f"T={tmp_path}; {text}")
    assert (found, said in output, "Traceback" in output) == (status, True, False), output
    assert said or not output


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 141), (["config"], 141), (["inspect", "nothing"], 2)]
)
def test_a_pipe_that_nobody_reads(arguments: list[str], status: int) -> None:
    """As of `| head`: what is not wanted any more is not said; an error keeps its status."""
    theirs, ours = os.pipe()
    os.close(theirs)
    command = [sys.executable, "-m", "facetrain", *arguments]
    try:
        done = subprocess.run(command, stdout=ours, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (status, status == 2)
        assert subprocess.run(command, stdout=ours, stderr=ours).returncode == status
    finally:
        os.close(ours)


def test_closed_streams_are_not_taken_by_files(faces: Path, tmp_path: Path) -> None:
    """Else what a library says to stderr would be written into the first file that is open."""
    assert shell(f"$F inspect {faces} --json {tmp_path}/a.json")[0] == 0
    assert shell(f"$F inspect {faces} --json {tmp_path}/b.json <&- >&- 2>&-") == (0, "")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
