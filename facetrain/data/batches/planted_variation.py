"""Blur and occlusion planted into a batch on its device, with exact labels.

For real faces, whose own blur and occluders nobody has labelled: what is planted is known. Levels
are drawn for the whole global batch from (seed, step), so any world size sees the same.
"""

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from facetrain.core.config import Config
from facetrain.core.rng import torch_generator
from facetrain.data.batches.augment import AugmentParameters

PLANTED_OCCLUSIONS = ("none", "eyes", "mouth", "left half", "right half")
OCCLUSION_BOXES = ((0.0, 0.0, 0.0, 0.0), (0.3, 0.0, 0.24, 1.0), (0.6, 0.0, 0.4, 1.0),
                   (0.0, 0.0, 1.0, 0.45), (0.0, 0.55, 1.0, 0.45))  # fmt: skip
"""Top, left, height, width as parts of a face crop aligned to ArcFace's points."""
PLANTED_BLURS = ("none", "light", "medium", "heavy")
PLANTED_BLUR_SIGMAS = (0.0, 0.012, 0.024, 0.04)
"""Of the side: 1.3, 2.7 and 4.5 pixels of 112, kernels of about 3 to 11 pixels (URFace's)."""

Share = Annotated[float, Field(ge=0)]


class PlantConfig(Config):
    """How often each level is planted; shares need not sum to one."""

    blur_shares: tuple[Share, Share, Share, Share] = (1, 1, 1, 1)
    """Of the four levels of blur, none first."""
    occlusion_shares: tuple[Share, Share, Share, Share, Share] = (1, 1, 1, 1, 1)
    """Of no occlusion and the four kinds."""

    @model_validator(mode="after")
    def _something(self) -> "PlantConfig":
        if not sum(self.blur_shares) or not sum(self.occlusion_shares):
            raise ValueError("shares must not all be zero")
        return self


def draw_planted(config: PlantConfig, batch_size: int, seed: int, step: int) -> Tensor:
    """(G, 2) int64 levels of blur and of occlusion for the global batch of one step."""
    generator = torch_generator(seed, "plant", step)
    shares = (config.blur_shares, config.occlusion_shares)
    columns = [
        torch.multinomial(torch.tensor(share), batch_size, replacement=True, generator=generator)
        for share in shares
    ]
    return torch.stack(columns, dim=1)


def planted(level: Tensor, size: int) -> AugmentParameters:
    """What `data.augment.augment` has to do to plant `level` (B, 2) into images of `size` pixels.

    A box is filled with middle grey.
    """
    sigma = torch.tensor(PLANTED_BLUR_SIGMAS)[level[:, 0]] * size  # (B,)
    box = torch.tensor(OCCLUSION_BOXES)[level[:, 1]]  # (B, 4)
    return AugmentParameters(
        blur_sigma=sigma, erase_box=box, erase_colour=torch.zeros(len(level), 3)
    )
