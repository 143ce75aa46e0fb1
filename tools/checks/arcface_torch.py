r"""The margins that InsightFace's arcface_torch has too, its code and ours on the same tensors.

    python -m tools.checks.arcface_torch insightface/recognition/arcface_torch

The folder is your own copy; its `losses.py` is imported. Each loss that it holds is given the same
cosines as ours in float64, and cross-entropy its logits. Printed is the largest difference of a
sample's loss, and that of the gradients of embeddings and centres, relative to their largest entry.
Losses must agree; the exit status is 1 where one does not. ArcFace's gradient is compared with both
of ours: the exact one, which older versions have, and the straight-through one of newer versions.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from facetrain.dist.mesh import Mesh
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.report.tables import format_table
from tools.benchmarks.common import make_parser

NUM_CLASSES, SIZE, BATCH, SCALE = 61, 16, 48, 64.0
TOLERANCE = 1e-6
ARC: dict[str, Any] = {"angular_margin": 0.5}
COS: dict[str, Any] = {"margin": "cosface", "cosine_margin": 0.4}
CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("cosface", "CosFace", {"s": SCALE, "m": 0.4}, COS),
    ("arcface", "ArcFace", {"s": SCALE, "margin": 0.5}, {"margin": "arcface", **ARC}),
    ("arcface, straight through", "ArcFace", {"s": SCALE, "margin": 0.5},
     {"margin": "arcface_straight_through", **ARC}),
    ("combined (1, 0, 0.4)", "CombinedMarginLoss", {"s": SCALE, "m1": 1.0, "m2": 0.0, "m3": 0.4},
     COS),
    ("combined (1, 0.5, 0), straight through", "CombinedMarginLoss",
     {"s": SCALE, "m1": 1.0, "m2": 0.5, "m3": 0.0}, {"margin": "arcface_straight_through", **ARC}),
    ("combined (1, 0, 0.4), filter 0.2", "CombinedMarginLoss",
     {"s": SCALE, "m1": 1.0, "m2": 0.0, "m3": 0.4, "interclass_filtering_threshold": 0.2},
     {**COS, "filter_above": 0.2}),
]  # fmt: skip
"""Name, their class and its arguments, our head."""


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings at 5 to 140 degrees from their centres, centres, labels."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(NUM_CLASSES, SIZE, generator=generator, dtype=torch.float64)
    label = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    own = F.normalize(centre[label])
    other = torch.randn(BATCH, SIZE, generator=generator, dtype=torch.float64)
    other = F.normalize(other - (other * own).sum(1, keepdim=True) * own)
    # Short of 180 degrees less the margin, where newer versions let the logit rise again.
    angle = torch.deg2rad(torch.linspace(5, 140, BATCH, dtype=torch.float64))[:, None]
    return (own * angle.cos() + other * angle.sin()) * 3, centre, label


def theirs(losses: ModuleType, name: str, arguments: dict[str, Any]) -> list[Tensor]:
    """Loss (B,), gradients of embeddings and of centres."""
    embedding, centre, label = tensors()
    embedding, centre = embedding.requires_grad_(), centre.requires_grad_()
    cosine = F.normalize(embedding) @ F.normalize(centre).T
    logits = getattr(losses, name)(**arguments)(cosine.clone(), label[:, None])
    loss = F.cross_entropy(logits, label, reduction="none")
    return [loss.detach(), *torch.autograd.grad(loss.sum(), [embedding, centre])]


def ours(config: dict[str, Any]) -> list[Tensor]:
    """The same by `MarginHead`."""
    embedding, centre, label = tensors()
    embedding = embedding.requires_grad_()
    settings = HeadConfig.model_validate({"scale": SCALE, **config})
    head = MarginHead(settings, NUM_CLASSES, SIZE, Mesh.single(), 0).double()
    with torch.no_grad():
        head.weight.copy_(centre)
    loss = head(embedding, label).loss
    return [loss.detach(), *torch.autograd.grad(loss.sum(), [embedding, head.weight])]


def compare(losses: ModuleType) -> list[tuple[str, float, float]]:
    """(case, difference of the losses, relative difference of the gradients) of what they have."""
    rows = []
    for name, kind, arguments, config in CASES:
        if hasattr(losses, kind):
            one, other = theirs(losses, kind, arguments), ours(config)
            of_loss = float((one[0] - other[0]).abs().max())
            of_gradient = max(
                float((a - b).abs().max() / a.abs().max())
                for a, b in zip(one[1:], other[1:], strict=True)
            )
            rows.append((name, of_loss, of_gradient))
    return rows


def main() -> None:
    """Import, compare, print."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("folder", type=Path, help="arcface_torch, with losses.py")
    path: Path = parser.parse_args().folder / "losses.py"
    if not path.is_file():
        parser.error(f"{path} must be arcface_torch's, but there is none")
    spec = importlib.util.spec_from_file_location("arcface_torch_losses", path)
    assert spec is not None
    assert spec.loader is not None
    losses = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(losses)
    rows = compare(losses)
    lines = [[name, f"{loss:.1e}", f"{gradient:.1e}"] for name, loss, gradient in rows]
    print(format_table(["", "loss", "gradient"], lines))
    sys.exit(not rows or any(loss > TOLERANCE for _, loss, _ in rows))


if __name__ == "__main__":
    main()
