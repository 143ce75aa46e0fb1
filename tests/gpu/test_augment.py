"""Augmentation on a GPU is augmentation on a CPU."""

import pytest
import torch

from facetrain.core.rng import torch_generator
from facetrain.data.batches.augment import AugmentConfig, augment, draw

pytestmark = pytest.mark.gpu

EVERYTHING = AugmentConfig(
    rotate_degrees=15,
    scale=(0.9, 1.2),
    aspect=(0.9, 1.1),
    translate=0.05,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    gamma=0.3,
    grey_probability=0.2,
    blur_probability=0.5,
    low_resolution_probability=0.5,
    erase_probability=0.5,
)


@pytest.mark.parametrize("config", [AugmentConfig(), EVERYTHING], ids=["flip", "everything"])
def test_the_same_as_on_the_cpu(config: AugmentConfig) -> None:
    shape = (32, 3, 112, 112)
    image = torch.randint(0, 256, shape, generator=torch_generator(0, "gpu augment"))
    image = image.to(torch.uint8)
    drawn = draw(config, len(image), seed=0, step=0)
    expected = augment(image, drawn)
    found = augment(image.cuda(), drawn.to("cuda"))
    assert found.dtype == torch.float32
    difference = (found.cpu() - expected).abs()
    # A position is off by 112 pixels times 1e-7, on noise that changes by 2 within a pixel; a
    # power near 0 multiplies that.
    assert difference.max() < 2e-3
    assert difference.mean() < 1e-5
