"""Seconds of the campaign in every test run; docs/reliability.md counts a long one."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from reliability import process
from reliability.campaign import Campaign, Tally

from facetrain import cli
from facetrain.core.artifact import Artifact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, limits and /proc")
COMMANDS = (
    "pack", "pack, a tar", "pack, pairs", "pack, templates", "inspect", "corrupt",
    "corrupt, features", "variations", "train", "embed", "graph", "clean", "graph, no recipe",
    "export", "write", "write, a table", "review",
)  # fmt: skip
NUMBERS = {"mutations": 30, "hostile": 10, "signals": 4, "limits": 6, "writers": 2, "requests": 40}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(0, tmp_path_factory.mktemp("reliability"), COMMANDS)


@pytest.mark.parametrize("kind", NUMBERS)
def test_nothing_false_counts_as_finished(campaign: Campaign, kind: str) -> None:
    tally = campaign.run(kind, NUMBERS[kind])
    assert tally.cases >= NUMBERS[kind]
    assert not tally.faults, "\n".join(tally.stories)


def flip(path: Path) -> None:
    """The last byte: of an array's rows, not of its header."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def judged(campaign: Campaign, name: str, change: Callable[[Path], None]) -> Tally:
    tally = Tally()
    change(campaign.fresh(name, unfinished=True))
    campaign.judge(tally, "planted", name, exact=True)
    return tally


def damage_embeddings(folder: Path) -> None:
    flip(folder / "run/embed/embedding.npy")


def test_the_judge_sees_a_wrong_result(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever plants the fault that digests are not looked at is told of a graph that is wrong."""
    assert not judged(campaign, "graph", damage_embeddings).faults
    monkeypatch.setattr(Artifact, "verify", lambda self, *names: None)
    assert set(judged(campaign, "graph", damage_embeddings).faults) == {"wrong result"}


def test_the_judge_sees_a_lost_image(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    from facetrain.data.packing import pack

    listed = pack.write_list
    monkeypatch.setattr(pack, "write_list", lambda path, rows: listed(path, [*rows][1:]))
    assert set(judged(campaign, "pack", lambda folder: None).faults) == {"wrong result"}


def test_the_judge_sees_a_traceback(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(Artifact, "verify", planted)
    assert set(judged(campaign, "graph", damage_embeddings).faults) == {"traceback", "status"}


def test_the_judge_sees_a_hang(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SECONDS", 0.5)
    monkeypatch.setattr(cli.cli, "main", lambda **_: time.sleep(60))
    assert set(judged(campaign, "graph", damage_embeddings).faults) == {"hang"}
