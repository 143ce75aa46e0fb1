"""IResNet, the backbone of ArcFace and of the field's published weights.

Source: Deng et al., ArcFace, CVPR 2019, section 3.1 (the BN-conv-BN-PReLU-conv-BN unit and the
BN-dropout-FC-BN output), after Han et al., Deep Pyramidal Residual Networks, CVPR 2017. Names and
shapes of the state dict are those of InsightFace's arcface_torch, so its files load as they are.
"""

import torch
from torch import Tensor, nn

from facetrain.models.precision import full_precision
from facetrain.models.prelu import PReLU
from facetrain.models.recompute import recomputed

# depth -> blocks in each of the four stages
IRESNET_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
_STAGE_WIDTHS = (64, 128, 256, 512)
_SE_REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """Each channel times a number in (0, 1) made of all channels' means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _SE_REDUCTION, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // _SE_REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(self.relu(self.fc1(mean))))


class IResNetBlock(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 (with the stride), BN, plus the shortcut; no activation after."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, recompute: bool, se: bool
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels) if se else None
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return recomputed(self, self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        x = self.bn3(self.conv2(x))
        if self.se is not None:
            x = self.se(x)
        return x + shortcut


class IResNet(nn.Module):
    """Images in [-1, 1] (B, 3, S, S) -> embeddings (B, D) in float32, also under autocast.

    Args:
        depth: a key of `IRESNET_BLOCKS`.
        image_size: S, a multiple of 16: four stages of stride 2 leave (S / 16)^2 places for the
            fully connected layer.
        dropout: probability of dropping an input of the fully connected layer.
        gradient_checkpointing: store only each block's input for backward.
        se: squeeze and excitation in every block (IR-SE of ArcFace's authors).
    """

    def __init__(
        self,
        depth: int,
        embedding_size: int,
        image_size: int,
        dropout: float,
        gradient_checkpointing: bool,
        se: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = PReLU(64)
        in_channels = 64
        stages = []
        for channels, num_blocks in zip(_STAGE_WIDTHS, IRESNET_BLOCKS[depth], strict=True):
            inputs = [in_channels] + [channels] * (num_blocks - 1)
            strides = [2] + [1] * (num_blocks - 1)
            stages.append(
                nn.Sequential(
                    *(
                        IResNetBlock(c, channels, stride, gradient_checkpointing, se)
                        for c, stride in zip(inputs, strides, strict=True)
                    )
                )
            )
            in_channels = channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * (image_size // 16) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # The head normalises the embedding, so a learned scale here would only drift.
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        x: Tensor = self.prelu(self.bn1(self.conv1(image)))  # (B, 64, S, S)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 512, S/16, S/16)
        x = self.dropout(self.bn2(x).flatten(1))  # (B, 512 * (S/16)^2)
        with full_precision(x):
            embedding: Tensor = self.features(self.fc(x.float()))  # (B, D)
        return embedding
