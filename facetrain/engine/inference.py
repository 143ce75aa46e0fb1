"""Embeddings from decoded images, the same way in every stage that needs them."""

from collections.abc import Callable

import torch
from torch import Tensor

Backbone = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [-1, 1], RGB -> embeddings (B, D): a module in eval mode, or a session."""


@torch.no_grad()
def embed_images(backbone: Backbone, image: Tensor, device: torch.device, *, flip: bool) -> Tensor:
    """Embeddings (B, D) float32 on the CPU, not normalised.

    Args:
        backbone: in eval mode; runs under bfloat16 autocast on a GPU.
        image: (B, 3, H, W) uint8 RGB.
        device: where the backbone lives.
        flip: sum the embeddings of the image and of its mirror image, as the field evaluates.
    """
    assert not getattr(backbone, "training", False), "a backbone embeds in eval mode only"
    x = image.to(device, torch.float32).div_(127.5).sub_(1.0)  # (B, 3, H, W)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        embedding = backbone(x).float()  # (B, D)
        if flip:
            embedding = embedding + backbone(x.flip(3)).float()
    return embedding.cpu()
