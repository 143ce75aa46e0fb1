import os
from pathlib import Path

import pytest
import torch

from facetrain.core.threads import usable_cores, use_usable_cores, wait_asleep


def test_threads_sleep_unless_the_user_has_said_how_they_wait() -> None:
    environ = {"PATH": "/bin"}
    wait_asleep(environ)
    assert environ == {"PATH": "/bin", "OMP_WAIT_POLICY": "PASSIVE"}
    for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}, {"KMP_BLOCKTIME": "9"}):
        environ = dict(own)
        wait_asleep(environ)
        assert environ == own


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),  # a fifth of a core is one thread
        ({"cpu.max": "6400000 100000\n"}, 8),  # more than the affinity gives
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_the_quota_of_either_cgroup_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/batch/job/step\n", {"batch/job/cpu.max": "400000 100000\n"}, 4),
        (  # the tightest of several
            "0::/batch/job/step\n",
            {"batch/cpu.max": "600000 100000\n", "batch/job/step/cpu.max": "300000 100000\n"},
            3,
        ),
        (
            "2:cpu,cpuacct:/batch/job\n1:memory:/other\n",
            {"cpu/batch/cpu.cfs_quota_us": "200000\n", "cpu/batch/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("0::/batch/job\n", {"batch/another/cpu.max": "100000 100000\n"}, 8),
        ("0::/../job\n", {"../job/cpu.max": "100000 100000\n"}, 8),  # outside what is shown
    ],
)
def test_the_quota_of_any_group_that_holds_the_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "self").write_text(groups)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    assert usable_cores(tmp_path / "cgroup", tmp_path / "self") == expected


def test_threads_are_bounded_unless_they_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("facetrain.core.threads.usable_cores", lambda: 3)
    try:
        torch.set_num_threads(7)
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        use_usable_cores()
        assert torch.get_num_threads() == 7
        monkeypatch.delenv("OMP_NUM_THREADS")
        use_usable_cores()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
