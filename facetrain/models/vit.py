"""Vision transformers: torchvision's, with the field's embedding at the end.

Dosovitskiy et al., ICLR 2021; the sizes T, S and B are those of DeiT (Touvron et al., ICML 2021).
Patches are 8 pixels, so 112 pixels have as many of them (196) as 224 have in the papers.
"""

from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from facetrain.models.precision import full_precision

PATCH = 8
VIT_SIZES: dict[str, tuple[int, int]] = {"t": (192, 3), "s": (384, 6), "b": (768, 12)}
"""Size -> width, heads; all have 12 layers."""


class ViT(nn.Module):
    """Images in [-1, 1] (B, 3, S, S) -> embeddings (B, D) in float32, also under autocast.

    Args:
        size: a key of `VIT_SIZES`.
        image_size: S, a multiple of 8.
        dropout: within the transformer's layers.
    """

    def __init__(self, size: str, embedding_size: int, image_size: int, dropout: float) -> None:
        super().__init__()
        width, heads = VIT_SIZES[size]
        self.trunk = VisionTransformer(image_size, PATCH, 12, heads, width, 4 * width, dropout)
        self.trunk.heads = nn.Identity()
        self.fc = nn.Linear(width, embedding_size, bias=False)
        self.features = nn.BatchNorm1d(embedding_size)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        x: Tensor = self.trunk(image)  # (B, width), the class token
        with full_precision(x):
            embedding: Tensor = self.features(self.fc(x.float()))  # (B, D)
        return embedding
