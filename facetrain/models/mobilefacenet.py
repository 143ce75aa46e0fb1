"""MobileFaceNet: depth-wise separable blocks and a global depth-wise convolution.

Source: Chen et al., MobileFaceNets, CCBR 2018, table 1. Block counts, the doubled width and the
names and shapes of the state dict are those of InsightFace's arcface_torch (`mbf`: width 128,
blocks 1, 4, 6, 2; `mbf_large`: width 256, blocks 2, 8, 12, 4), so its files load as they are.
Width 64 with blocks 1, 4, 6, 2 is the paper's network.
"""

from torch import Tensor, nn

from facetrain.models.precision import full_precision
from facetrain.models.prelu import PReLU


class ConvBlock(nn.Module):
    """Convolution, BN and, unless `linear`, PReLU."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
        )
        if not linear:
            self.layers.append(PReLU(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        x = self.layers(x)
        return x


class Bottleneck(nn.Module):
    """1x1 to `expanded` channels, depth-wise 3x3, linear 1x1; a shortcut when `residual`."""

    def __init__(
        self, in_channels: int, channels: int, expanded: int, stride: int, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            ConvBlock(in_channels, expanded, 1),
            ConvBlock(expanded, expanded, 3, stride, padding=1, groups=expanded),
            ConvBlock(expanded, channels, 1, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Stage(nn.Module):
    """Residual bottlenecks of one shape."""

    def __init__(self, channels: int, expanded: int, num_blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(Bottleneck(channels, channels, expanded, 1, True) for _ in range(num_blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        x = self.layers(x)
        return x


class GlobalDepthwise(nn.Module):
    """One weight per place and channel (a depth-wise convolution as large as the map), FC, BN."""

    def __init__(self, places: int, embedding_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(512, 512, places, groups=512, linear=True),
            nn.Flatten(1),
            nn.Linear(512, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 512, places, places) -> (B, D)."""
        x = self.layers(x)
        return x


class MobileFaceNet(nn.Module):
    """Images in [-1, 1] (B, 3, S, S) -> embeddings (B, D) in float32, also under autocast.

    Args:
        image_size: S, a multiple of 16.
        width: channels of the stem, a multiple of 64; twice as many from the third stage on.
        blocks: residual blocks in each of the four stages; a first entry of 1 means the paper's
            depth-wise convolution instead.
    """

    def __init__(
        self, embedding_size: int, image_size: int, width: int, blocks: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        first: nn.Module
        if blocks[0] == 1:
            first = ConvBlock(width, width, 3, padding=1, groups=64)
        else:
            first = Stage(width, 128, blocks[0])
        self.layers = nn.ModuleList(
            [
                ConvBlock(3, width, 3, 2, padding=1),  # S/2
                first,
                Bottleneck(width, width, 128, 2, False),  # S/4
                Stage(width, 128, blocks[1]),
                Bottleneck(width, 2 * width, 256, 2, False),  # S/8
                Stage(2 * width, 256, blocks[2]),
                Bottleneck(2 * width, 2 * width, 512, 2, False),  # S/16
                Stage(2 * width, 256, blocks[3]),
            ]
        )
        self.conv_sep = ConvBlock(2 * width, 512, 1)
        self.features = GlobalDepthwise(image_size // 16, embedding_size)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        x = image
        for layer in self.layers:
            x = layer(x)
        with full_precision(x):
            embedding: Tensor = self.features(self.conv_sep(x.float()))  # (B, D)
        return embedding
