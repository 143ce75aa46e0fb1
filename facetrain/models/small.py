"""A residual network for small images (32 to 64 pixels) and for training on a CPU."""

from torch import Tensor, nn

from facetrain.models.precision import full_precision
from facetrain.models.prelu import PReLU


class SmallBlock(nn.Module):
    """3x3 (with the stride), BN, ReLU, 3x3, BN, plus the shortcut, ReLU (He et al. 2016)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        x = self.activation(self.layers(x) + self.shortcut(x))
        return x


class SmallResNet(nn.Module):
    """Images in [-1, 1] (B, 3, S, S) -> embeddings (B, D) in float32, also under autocast.

    Args:
        image_size: S, a multiple of 16.
        width: channels of the stem and the first stage; doubled by each further stage.
        blocks: residual blocks in each of the four stages.
        dropout: probability of dropping an input of the fully connected layer.
    """

    def __init__(
        self,
        embedding_size: int,
        image_size: int,
        width: int,
        blocks: tuple[int, int, int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), PReLU(width)
        )
        layers = []
        in_channels = width
        for stage, num_blocks in enumerate(blocks):
            channels = width << stage
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(SmallBlock(in_channels, channels, stride))
                in_channels = channels
        self.stages = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels * (image_size // 16) ** 2, embedding_size, bias=False)
        self.features = nn.BatchNorm1d(embedding_size)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        x: Tensor = self.stages(self.stem(image))  # (B, 8 * width, S/16, S/16)
        x = self.dropout(self.norm(x).flatten(1))  # (B, 8 * width * (S/16)^2)
        with full_precision(x):
            embedding: Tensor = self.features(self.fc(x.float()))  # (B, D)
        return embedding
