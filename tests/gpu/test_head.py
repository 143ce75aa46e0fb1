"""The head on a GPU is the head on a CPU, and its bfloat16 products keep float32 results."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facetrain.core.rng import torch_generator
from facetrain.dist.mesh import Mesh
from facetrain.heads import margin_head
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.heads.negatives import sample_classes

pytestmark = pytest.mark.gpu

BATCH, DIM, NUM_CLASSES = 48, 64, 1003
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunked": {"chunk_size": 100},
    "sampled": {"sample_rate": 0.3},
    "arcface": {"margin": "arcface"},
}


def relative_error(found: Tensor, expected: Tensor) -> float:
    difference = (found.cpu().double() - expected.cpu().double()).norm()
    return float(difference / expected.double().norm().cpu())


def loss_and_gradients(
    device: str, dtype: torch.dtype, options: dict[str, Any], *, autocast: bool = False
) -> dict[str, Tensor]:
    head = MarginHead(HeadConfig(**options), NUM_CLASSES, DIM, Mesh.single(device), seed=0)
    head = head.to(dtype)
    generator = torch_generator(0, "gpu head")
    embedding = torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64)
    label = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    label[3] = -1
    embedding = embedding.to(device, dtype).requires_grad_()
    head.begin_step(0)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        output = head(embedding, label.to(device))
    output.loss.sum().backward()
    assert embedding.grad is not None
    assert head.weight.grad is not None
    gradient = head.weight.grad
    return {
        "loss": output.loss.detach(),
        "target_cosine": output.target_cosine,
        "embedding": embedding.grad,
        "centres": gradient.to_dense() if gradient.is_sparse else gradient,
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    # Rounding of each type; at scale 64 a cosine's error counts 64 times in a logit.
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-4)],
    ids=["float64", "float32"],
)
def test_the_same_as_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, way: str, dtype: torch.dtype, tolerance: float
) -> None:
    def same_sample(target: Tensor, classes: int, rate: float, _: torch.Generator) -> Tensor:
        """Generators of the two devices draw different numbers."""
        return sample_classes(target.cpu(), classes, rate, torch_generator(5)).to(target.device)

    monkeypatch.setattr(margin_head, "sample_classes", same_sample)
    expected = loss_and_gradients("cpu", dtype, WAYS[way])
    for name, value in loss_and_gradients("cuda", dtype, WAYS[way]).items():
        assert relative_error(value, expected[name]) < tolerance, name


def test_the_sample_on_the_device_holds_every_positive_once() -> None:
    target = torch.tensor([[5], [-1], [5], [90]], device="cuda")
    sampled = sample_classes(target, 100, 0.2, torch_generator(0, device="cuda")).tolist()
    assert sampled == sorted(set(sampled))
    assert len(sampled) == 20
    assert {5, 90} <= set(sampled) <= set(range(100))


@pytest.mark.parametrize("way", ["whole", "chunked"])
def test_bfloat16_products_are_summed_in_float32(way: str) -> None:
    """Target cosines equal those of the rounded inputs to 1e-5; rounded sums are 7e-4 off."""
    found = loss_and_gradients("cuda", torch.float32, WAYS[way], autocast=True)
    head = MarginHead(HeadConfig(), NUM_CLASSES, DIM, Mesh.single(), seed=0)
    generator = torch_generator(0, "gpu head")
    embedding = torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64)
    label = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    unit = F.normalize(embedding.to("cuda", torch.float32), dim=1)  # (B, D), to the same bits
    unit = unit.bfloat16().cpu().double()
    centre = head.weight.detach()[label]  # (B, D)
    cosine = (unit * centre.bfloat16().double()).sum(1) / centre.double().norm(dim=1)
    cosine[3] = 0.0
    torch.testing.assert_close(found["target_cosine"].cpu().double(), cosine, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", ["whole", "chunked"])
def test_bfloat16_is_close_to_float32(way: str) -> None:
    """A cosine of rounded unit vectors is off by 2e-4, a logit by 0.013, a probability by 1.3 %."""
    exact = loss_and_gradients("cuda", torch.float32, WAYS[way])
    rounded = loss_and_gradients("cuda", torch.float32, WAYS[way], autocast=True)
    for name, value in exact.items():
        assert value.dtype == rounded[name].dtype == torch.float32
        assert 0 < relative_error(rounded[name], value) < 0.03, name
