"""The scale benchmark on a small set, on a CPU."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.people import GRAPH, PRETRAIN

from facetrain.clean.adapter import AdapterConfig
from facetrain.clean.clean import CleanConfig
from facetrain.clean.training import MetaConfig
from tools.benchmarks import scale as bench_scale
from tools.benchmarks import synthetic_embedding


def test_synthetic_identities_are_as_near_as_they_say(tmp_path: Path) -> None:
    """Against the sentence in the docstring: two images of one identity have cosine 0.73."""
    path = tmp_path / "embedding.npy"
    cpu = torch.device("cpu")
    identity = synthetic_embedding.write_embedding(path, 2000, 128, "float16", 0.3, cpu)
    rows = np.load(path).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    cosine, same = rows @ rows.T, identity[:, None] == identity
    np.fill_diagonal(same, False)
    assert cosine[same].mean() == pytest.approx(0.73, abs=0.03)
    assert abs(cosine[identity[:, None] != identity].mean()) < 0.05
    assert np.bincount(identity).mean() == 20
    again = synthetic_embedding.write_embedding(path, 2000, 128, "float16", 0.3, cpu, seed=1)
    assert (again != identity).any()


@pytest.mark.parametrize("source", [[], ["--self-source"]], ids=["known", "own"])
def test_graph_and_cleaning_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: list[str]
) -> None:
    config = CleanConfig(
        graph=GRAPH,
        pretrain=PRETRAIN,
        meta=MetaConfig(num_rounds=1, num_steps=2),
        adapter=AdapterConfig(num_draws=1),
    )
    monkeypatch.setattr(bench_scale, "CleanConfig", lambda: config)
    monkeypatch.setattr(bench_scale, "_SOURCE_ROWS", 400)
    options = {"--rows": 600, "--dim": 32, "--neighbours": 20, "--device": "cpu"}
    options["--json"] = tmp_path / "out.json"
    arguments = [str(part) for option in options.items() for part in option]
    monkeypatch.setattr(sys, "argv", ["bench_scale.py", *arguments, *source])
    bench_scale.main()
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["graph"]["checked_recall"] == pytest.approx(1, abs=2e-3)
    assert report["graph"]["of_roofline"] > 0
    assert report["self_source"] == bool(source)
    assert report["clean"]["num_images"] == 600
    assert report["clean"]["num_noise"] == 180
    assert report["clean"]["f1"] > 0.9
