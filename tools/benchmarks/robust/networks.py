"""What classifies and regresses without faces: backbones, and heads beside the margin softmax."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import HeadOutput, MarginHead


class LinearHead(MarginHead):
    """The softmax of a linear layer, dense and in one process: no norms, no margin, a bias.

    Args:
        seed: of the first weights, those of a new `nn.Linear`.
    """

    def __init__(self, num_classes: int, embedding_size: int, seed: int = 0) -> None:
        config = HeadConfig(scale=1.0, cosine_margin=0.0)
        super().__init__(config, num_classes, embedding_size + 1, seed=seed)
        self.embedding_size = embedding_size  # the last column of the weight is the bias
        torch.manual_seed(seed)
        nn.init.uniform_(self.weight, -(embedding_size**-0.5), embedding_size**-0.5)

    def logits(self, embedding: Tensor) -> Tensor:
        """(B, C)."""
        return F.linear(embedding, self.weight[:, :-1], self.weight[:, -1])

    def forward(
        self,
        embedding: Tensor,
        label: Tensor,
        margin: Tensor | None = None,
        extra_label: Tensor | None = None,
    ) -> HeadOutput:
        """Cross-entropies of the label and of the extra ones; `margin` has no meaning here."""
        target = (
            label[:, None] if extra_label is None else torch.cat([label[:, None], extra_label], 1)
        )
        known, place = target >= 0, target.clamp_min(0)  # (B, T)
        logits = self.logits(embedding)
        loss = torch.where(known, -logits.log_softmax(1).gather(1, place), 0.0)
        free = logits.detach()
        own = free.gather(1, place[:, :1])[:, 0]  # (B,)
        probability = torch.where(known, free.softmax(1).gather(1, place), 0.0)
        return HeadOutput(
            loss=loss[:, 0],
            extra_loss=loss[:, 1:],
            target_cosine=own,
            dominant_cosine=own,
            target_probability=probability[:, 0],
            plain_probability=probability,
            negative_logsumexp=free.scatter(1, place[:, :1], -torch.inf).logsumexp(1),
        )

    @torch.no_grad()
    def nearest(self, embedding: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The classes of the highest logits, (B, count) logits and labels; -1 past the last."""
        logit, label = self.logits(embedding).topk(min(count, self.num_classes), dim=1)
        absent = (0, count - label.shape[1])
        return F.pad(logit, absent, value=-torch.inf), F.pad(label, absent, value=-1)


class NumberOutput(HeadOutput):
    """Of a regression: the loss judges as it trains."""

    def plain_loss(self, scale: float, *, dominant: bool = False) -> Tensor:
        """(B,)."""
        return self.loss.detach()


class NumberHead(LinearHead):
    """A linear layer to one number, and its l2 or smooth-l1 loss (quadratic up to an error of 1).

    Args:
        seed: of the first weights.
    """

    def __init__(self, embedding_size: int, loss: str, seed: int = 0) -> None:
        super().__init__(1, embedding_size, seed)
        assert loss in ("l2", "smooth_l1"), loss
        self._loss = F.mse_loss if loss == "l2" else F.smooth_l1_loss

    def forward(
        self,
        embedding: Tensor,
        label: Tensor,
        margin: Tensor | None = None,
        extra_label: Tensor | None = None,
    ) -> HeadOutput:
        """Losses of labels that are numbers; there are no classes, so nothing else."""
        assert extra_label is None, "a number has no further targets"
        value = self.logits(embedding)[:, 0]
        loss = self._loss(value, label.to(value.dtype), reduction="none")
        nothing = torch.zeros_like(loss)
        return NumberOutput(
            loss=torch.where(label >= 0, loss, 0.0),
            extra_loss=nothing[:, None][:, 1:],
            target_cosine=nothing,
            dominant_cosine=nothing,
            target_probability=nothing,
            plain_probability=nothing[:, None],
            negative_logsumexp=nothing,
        )


def perceptron(widths: list[int]) -> nn.Sequential:
    """Linear layers of these widths, ReLU after each."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())))


def small_convolutional() -> tuple[nn.Module, int]:
    """Two convolutions and a linear layer for images of 28x28 of one channel; embedding size."""
    layers = nn.Sequential(
        *(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU()),
    )
    return layers, 128


def residual_network(name: str) -> tuple[nn.Module, int]:
    """Backbone for images of 32x32 and more, and its embedding size.

    Args:
        name: `resnet34` (NAL), `preact_resnet18` (L2B), `wide_resnet28_10`, `resnet18` (ages);
            `tiny` for tests.
    """
    stem, widths, depths, pre_activation = {
        "resnet18": (64, (64, 128, 256, 512), (2, 2, 2, 2), False),
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
