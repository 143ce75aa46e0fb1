"""MvCoM's residuals and its heads: N processes with sharded class centres == one process."""

from typing import Any

import pytest
import torch
from helpers.mvcom import NUM_IMAGES, method, step_batch
from helpers.ranks import Ranks

from facetrain.dist.collectives import all_gather_no_grad
from facetrain.dist.mesh import Mesh


def residuals(mesh: Mesh, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """After two steps: the batch's residuals of all ranks, and the heads' weights."""
    learned = method(mesh, **options)
    for step in range(2):
        learned.begin_step(step, step_batch(mesh))
    found = {n: v.clone() for n, v in learned.tensors().items() if isinstance(v, torch.Tensor)}
    found["residual"] = all_gather_no_grad(learned.residual, mesh)[:NUM_IMAGES]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"normalisation": "max", "size": 0.01},
        {"normalisation": "deviation", "size": 0.01, "pieces": 2},
        {"normalisation": "none", "size": 1e-3, "persist": True, "head_learning_rate": 0.05},
        {"normalisation": "max", "size": 0.01, "pseudo_update": False},
    ],
    ids=["max", "deviation, in pieces", "tau, persistent, heads along", "no pseudo update"],
)
def test_n_processes_are_one_process(ranks: Ranks, options: dict[str, Any]) -> None:
    expected = residuals(Mesh.single(), options)
    assert float(expected["residual"].abs().max()) > 1e-4
    for found in ranks.run(residuals, options):
        for name, value in expected.items():
            # float64, summed in another order, over a central difference of length 1e-6.
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-9, msg=name)
