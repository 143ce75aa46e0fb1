"""Small networks as files."""

from pathlib import Path

import torch

from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.weights import save_backbone


def untrained(folder: Path, embedding_size: int = 16, width: int = 4) -> Path:
    """A network of 32 pixels that nobody trained, in `folder`."""
    torch.manual_seed(0)
    config = ModelConfig(name="small", image_size=32, embedding_size=embedding_size, width=width)
    path = folder / "backbone.safetensors"
    save_backbone(build_backbone(config), config, path)
    return path
