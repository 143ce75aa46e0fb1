"""The benchmark of growth on a small set: every stage that it measures is a command that works."""

import shutil
from pathlib import Path

import pytest
from helpers.cli import command

from facetrain.core.artifact import read_json
from tools.benchmarks import growth

NUM_IMAGES = 1_000


def test_every_stage_finds_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the cleaner finds the noise: 30 % of the labels, of identities that are well apart."""
    monkeypatch.setattr(growth, "POOL", 20)
    monkeypatch.setattr(growth, "PEOPLE", 4)
    folder = tmp_path / "set" / str(NUM_IMAGES)
    growth.prepare(folder, NUM_IMAGES, 20)
    # A trained GCN takes its time, and shares its command with the cleaning without.
    for stage in ("pack", "embed", "graph", "clean without the GCN"):
        arguments, out = growth.stage_command(stage, folder)
        command(*arguments[3:])
        assert out is not None
        assert read_json(out / "manifest.json")["metrics"]["num_images"] == NUM_IMAGES
    found = growth.f1_of_noise(folder, folder / "posterior" / "clean")
    assert found == pytest.approx(1.0, abs=0.03)
    shutil.copytree(folder / "posterior" / "clean", folder / "run" / "clean")
    for stage in ("report", "write"):
        command(*growth.stage_command(stage, folder)[0][3:])
    assert (folder / "run" / "report.html").is_file()
    assert (folder / "written").stat().st_size > 0
