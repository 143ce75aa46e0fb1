"""Labels cleaned by several ranks are those cleaned by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.people import GRAPH, PRETRAIN, noisy_people
from helpers.ranks import Ranks

from facetrain.clean import cleaner
from facetrain.clean.adapter import AdapterConfig
from facetrain.clean.clean import CleanConfig, run_features
from facetrain.clean.training import MetaConfig
from facetrain.core.errors import DataError
from facetrain.data.features import Features, save_features
from facetrain.dist.mesh import Mesh

NODES_AT_ONCE = 40
"""Seven or so pieces: they do not divide over 2 or 3 ranks."""


def config(source: Path | None, num_draws: int = 3) -> CleanConfig:
    return CleanConfig(
        source=source,
        graph=GRAPH,
        pretrain=PRETRAIN.model_copy(update={"num_draws": num_draws}),
        meta=MetaConfig(num_rounds=1, num_steps=3),
        adapter=AdapterConfig(num_draws=2),
    )


def clean(mesh: Mesh, source: Path | None, target: Path, out_dir: Path) -> dict[str, Any]:
    whole, cleaner._NODES_AT_ONCE = cleaner._NODES_AT_ONCE, NODES_AT_ONCE
    try:
        return dict(run_features(config(source), target, out_dir, mesh).metrics)
    finally:
        cleaner._NODES_AT_ONCE = whole


def failure(mesh: Mesh, source: Path, target: Path, out_dir: Path) -> str:
    try:
        run_features(config(source, 1), target, out_dir, mesh)
    except DataError as error:
        return str(error)
    return "no error"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean")
    for seed, name in enumerate(("source", "target")):
        save_features(path / f"{name}.npz", Features(*noisy_people(seed, 24)))
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["source", "own source"])
def alone(request: pytest.FixtureRequest, folder: Path) -> tuple[Path | None, Path]:
    """The source, or none, and where one process has cleaned with it."""
    source = folder / "source.npz" if request.param else None
    out_dir = folder / f"alone{request.param}"
    clean(Mesh.single(), source, folder / "target.npz", out_dir)
    return source, out_dir


def test_ranks_equal_one_process(
    ranks: Ranks, folder: Path, alone: tuple[Path | None, Path], tmp_path: Path
) -> None:
    source, expected_dir = alone
    metrics = ranks.run(clean, source, folder / "target.npz", tmp_path / "out")
    assert all(found == metrics[0] for found in metrics)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["world_size"] == ranks.world_size
    with (
        np.load(tmp_path / "out" / "clean.npz") as found,
        np.load(expected_dir / "clean.npz") as expected,
    ):
        assert sorted(found) == sorted(expected)
        for name in expected:
            if expected[name].dtype.kind == "f":
                # Sums over images come in another order, and the evidence is weighed by them.
                np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
            else:
                np.testing.assert_array_equal(found[name], expected[name], name)
        assert 0 < (~expected["kept"]).sum() < len(expected["kept"]) / 2


def test_too_few_to_learn_from_is_told_by_every_rank(
    ranks: Ranks, folder: Path, tmp_path: Path
) -> None:
    few = tmp_path / "source.npz"
    save_features(few, Features(*noisy_people(0, 5)))
    texts = set(ranks.run(failure, few, folder / "target.npz", tmp_path / "out"))
    assert len(texts) == 1
    assert "8 identities with at least 4 clean images" in texts.pop()
