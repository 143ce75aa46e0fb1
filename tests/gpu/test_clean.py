"""Cleaning on a GPU is cleaning on a CPU."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.people import CPU, GRAPH, PRETRAIN, noisy_people, people, slow_knn

from facetrain.clean.adapter import AdapterConfig
from facetrain.clean.adc import PRETRAINED_FILE
from facetrain.clean.clean import CLEAN_FILE, CleanConfig, run_features
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.training import MetaConfig
from facetrain.data.features import Features, save_features
from facetrain.dist.mesh import Mesh

pytestmark = pytest.mark.gpu

CONFIG = CleanConfig(
    graph=GRAPH,
    pretrain=PRETRAIN,
    meta=MetaConfig(num_rounds=1, num_steps=3),
    adapter=AdapterConfig(num_draws=2),
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """16 people, a quarter noise; beside it source.npz of 20 others, without."""
    embedding, label = people(0, 20)
    save_features(tmp_path / "source.npz", Features(embedding, label, np.ones(len(label), bool)))
    save_features(tmp_path / "target.npz", Features(*noisy_people(1, 16)))
    return tmp_path / "target.npz"


@pytest.mark.parametrize("free", [None, 0], ids=["held on the device", "read from the host"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_and_context(
    monkeypatch: pytest.MonkeyPatch, free: int | None, dtype: type[np.floating]
) -> None:
    if free is not None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    embedding = people(0, 12)[0].astype(dtype)
    knn = slow_knn(embedding.astype(np.float32))
    there = EmbeddedSet(embedding, knn, 12, torch.device("cuda"))
    here = EmbeddedSet(embedding, knn, 12, CPU)
    row = torch.tensor([5, 0, 5, len(embedding) - 1])
    for at in (row, row.cuda()):
        assert there.rows(at).device.type == "cuda"
        torch.testing.assert_close(there.rows(at).cpu(), here.rows(row), rtol=0, atol=1e-6)
        for found, expected in zip(there.context(at), here.context(row), strict=True):
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("own", [False, True], ids=["source", "self-source"])
def test_the_stage(target: Path, own: bool) -> None:
    """The same trained cleaner on both; what follows it differs by rounding, magnified a little."""
    config = CONFIG if own else CONFIG.model_copy(update={"source": target.with_name("source.npz")})
    here, there = target.with_name("cpu"), target.with_name("cuda")
    metrics = run_features(config, target, here, Mesh.single()).metrics
    assert metrics["f1"] > 0.9
    there.mkdir()
    shutil.copy(here / PRETRAINED_FILE, there)
    assert run_features(config, target, there, Mesh.single("cuda")).metrics["f1"] > 0.9
    with np.load(here / CLEAN_FILE) as expected, np.load(there / CLEAN_FILE) as found:
        assert found["kept"].mean() == pytest.approx(expected["kept"].mean(), abs=0.02)
        for name in ("clean_probability", "threshold"):
            np.testing.assert_allclose(found[name], expected[name], atol=0.02)
        assert (found["suggested_label"] == expected["suggested_label"]).mean() > 0.97


def test_learning_on_the_device(target: Path) -> None:
    config = CONFIG.model_copy(update={"source": target.with_name("source.npz")})
    found = run_features(config, target, target.with_name("out"), Mesh.single("cuda")).metrics
    assert found["f1"] > 0.9
