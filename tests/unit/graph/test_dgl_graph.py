"""DGL and the native graph are one function; without DGL the error says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.class_graphs import random_features, random_table, two_derivatives

from facetrain.core.errors import ConfigError
from facetrain.graph.dgl_graph import DGLGraph, import_dgl
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import Activation


@pytest.fixture
def dgl() -> None:
    try:
        import_dgl()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("dgl")
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize(
    # Rounding of each type: sums are made in another order.
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-5)],
    ids=["float64", "float32"],
)
def test_the_native_graph_to_the_second_derivative(
    activation: Activation, dtype: torch.dtype, tolerance: float
) -> None:
    table = random_table(dtype=dtype)
    message = random_features(len(table.mask), 4, "message").to(dtype).requires_grad_()
    bias = (0.2 * random_features(1, 4, "bias")[0]).to(dtype).requires_grad_()
    native = NeighbourTable(*table).aggregate(message, bias, activation)
    found = DGLGraph(*table).aggregate(message, bias, activation)
    torch.testing.assert_close(found, native, rtol=tolerance, atol=tolerance)
    expected = two_derivatives(native, message, bias)
    for came, wanted in zip(two_derivatives(found, message, bias), expected, strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(came, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("dgl")
def test_a_graph_without_edges_receives_nothing() -> None:
    table = random_table((1, 1, 1))
    message = random_features(3, 4, "message").requires_grad_()
    found = DGLGraph(*table).aggregate(message, torch.ones(4, dtype=torch.float64), "sigmoid")
    assert torch.equal(found, torch.zeros_like(found))
    assert torch.equal(torch.autograd.grad(found.sum(), message)[0], torch.zeros_like(message))


@pytest.mark.usefixtures("dgl")
def test_another_device_is_refused() -> None:
    table = random_table()
    with pytest.raises(ConfigError, match=r"works on the CPU only, got a table on meta"):
        DGLGraph(*(part.to("meta") for part in table))


def test_without_dgl_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[dgl\]' in"):
        DGLGraph(*random_table())


@pytest.mark.slow
@pytest.mark.usefixtures("dgl")
def test_importing_dgl_is_silent_and_writes_nothing(tmp_path: Path) -> None:
    """Left alone it announces a backend and writes ~/.dgl/config.json."""
    environment = {k: v for k, v in os.environ.items() if k != "DGLBACKEND"} | {
        "HOME": str(tmp_path)
    }
    code = "from facetrain.graph.dgl_graph import import_dgl; import_dgl()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert not list(tmp_path.iterdir())
