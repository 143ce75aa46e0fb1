"""Small networks for the robust methods' tools: embedding, per-sample losses, class logits."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facetrain.dist.mesh import Mesh
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead


class Classifier(nn.Module):
    """A backbone and a linear softmax, or a margin head.

    Args:
        backbone: (B, ...) -> (B, D).
        embedding_size: D.
        num_classes: C.
        margin: the margin head; without it cross-entropy.
        seed: of the head's class centres.
    """

    def __init__(
        self,
        backbone: nn.Module,
        embedding_size: int,
        num_classes: int,
        margin: HeadConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embed = backbone
        self.embedding_size = embedding_size
        self.head: nn.Linear | MarginHead = (
            nn.Linear(embedding_size, num_classes)
            if margin is None
            else MarginHead(margin, num_classes, embedding_size, Mesh.single(), seed)
        )

    def losses(self, embedding: Tensor, label: Tensor) -> Tensor:
        """(B, T) loss of each label as target.

        Args:
            embedding: (B, D).
            label: (B, T).
        """
        if isinstance(self.head, MarginHead):
            output = self.head(embedding, label[:, 0], extra_label=label[:, 1:])
            return torch.cat([output.loss[:, None], output.extra_loss], dim=1)
        return self.judged(embedding, label)

    def logits(self, embedding: Tensor) -> Tensor:
        """(B, C), free of margin."""
        if isinstance(self.head, MarginHead):
            centre = F.normalize(self.head.weight)  # (C, D)
            return self.head.config.scale * F.normalize(embedding) @ centre.T
        logits: Tensor = self.head(embedding)
        return logits

    def judged(self, embedding: Tensor, label: Tensor) -> Tensor:
        """(B, T) loss by which a sample is judged: free of margin."""
        return -self.logits(embedding).log_softmax(1).gather(1, label)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """`losses` of images, (B, T)."""
        return self.losses(self.embed(x), label)

    @torch.no_grad()
    def score(self, x: Tensor, label: Tensor) -> float:
        """Accuracy."""
        found = torch.cat(
            [self.logits(self.embed(part)).argmax(1) for part in torch.split(x, 1000)]
        )
        return (found == label).double().mean().item()


class Regressor(nn.Module):
    """A network with one output for a number.

    Args:
        network: (B, ...) -> (B, 1).
        loss: l2 or smooth_l1 (quadratic up to an error of 1).
    """

    def __init__(self, network: nn.Module, loss: str) -> None:
        super().__init__()
        self.embed = network
        self.embedding_size = 1
        assert loss in ("l2", "smooth_l1"), loss
        self._loss = F.mse_loss if loss == "l2" else F.smooth_l1_loss

    def losses(self, embedding: Tensor, label: Tensor) -> Tensor:
        """(B, T) loss of each number as target."""
        return self._loss(embedding.expand(label.shape), label.float(), reduction="none")

    def judged(self, embedding: Tensor, label: Tensor) -> Tensor:
        """The same: a number has no margin."""
        return self.losses(embedding, label)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """`losses` of images, (B, T)."""
        return self.losses(self.embed(x), label)

    @torch.no_grad()
    def score(self, x: Tensor, label: Tensor, at_most: float = float("inf")) -> float:
        """Minus the mean absolute error; each error counts `at_most` so much."""
        found = torch.cat([self.embed(part)[:, 0] for part in torch.split(x, 1000)])
        return -(found - label).abs().clamp_max(at_most).double().mean().item()


def perceptron(widths: list[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for number, (width, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] if number else []
        layers.append(nn.Linear(width, after))
    return nn.Sequential(*layers)


def small_convolutional(num_outputs: int) -> nn.Sequential:
    """Two convolutions and two linear layers for images of 28x28 of one channel."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, num_outputs)),
    )


def residual_network(name: str) -> tuple[nn.Module, int]:
    """Backbone for images of 32x32 and its embedding size.

    Args:
        name: `resnet34` (NAL), `preact_resnet18` (L2B), `wide_resnet28_10`; `tiny` for tests.
    """
    stem, widths, depths, pre_activation = {
        "resnet34": (64, (64, 128, 256, 512), (3, 4, 6, 3), False),
        "preact_resnet18": (64, (64, 128, 256, 512), (2, 2, 2, 2), True),
        "wide_resnet28_10": (16, (160, 320, 640), (4, 4, 4), True),
        "tiny": (4, (4, 8), (1, 1), True),
    }[name]
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, padding=1, bias=False)]
    if not pre_activation:
        layers += [nn.BatchNorm2d(stem), nn.ReLU()]
    width = stem
    for stage, (after, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers.append(_Block(width, after, stride, pre_activation))
            width = after
    if pre_activation:
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), width


class _Block(nn.Module):
    """Two 3x3 convolutions and what they add to; batch normalisation before or after each."""

    def __init__(self, width: int, after: int, stride: int, pre_activation: bool) -> None:
        super().__init__()
        self._pre_activation = pre_activation
        self.conv1 = nn.Conv2d(width, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width if pre_activation else after)
        self.norm2 = nn.BatchNorm2d(after)
        changes = stride != 1 or width != after
        convolution = nn.Conv2d(width, after, 1, stride, bias=False)
        if not changes:
            self.shortcut: nn.Module = nn.Identity()
        elif pre_activation:
            self.shortcut = convolution
        else:
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(after))
        self._changes = changes

    def forward(self, x: Tensor) -> Tensor:
        if self._pre_activation:
            active = F.relu(self.norm1(x))
            kept = self.shortcut(active if self._changes else x)
            pre: Tensor = kept + self.conv2(F.relu(self.norm2(self.conv1(active))))
            return pre
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))
