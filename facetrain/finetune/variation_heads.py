"""A linear classifier of each variation factor, on unit embeddings."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facetrain.core.rng import torch_generator

_BATCH = 256
_DECAY = 1e-4


class VariationHeads(nn.Module):
    """Embeddings (B, D) -> the variation loss L_var of each image.

    The factors' classifiers see the embedding on the sphere of radius sqrt(D): what recognition
    compares, with coordinates of about unit size.

    Args:
        num_levels: of each factor, in the order of the label table's columns.
        embedding_size: D.
    """

    def __init__(self, num_levels: Sequence[int], embedding_size: int) -> None:
        super().__init__()
        self.num_levels = tuple(num_levels)
        self.weight = nn.Parameter(torch.zeros(sum(num_levels), embedding_size))
        self.bias = nn.Parameter(torch.zeros(sum(num_levels)))

    def forward(self, embedding: Tensor, level: Tensor, sign: Tensor | None = None) -> Tensor:
        """sum_k cross-entropy of factor k, (B,); an unknown level (-1) adds nothing.

        Args:
            embedding: (B, D), not normalised.
            level: (B, K) int64.
            sign: (K,) factor of each task's loss; 1 without it.
        """
        logits = self.logits(embedding)
        parts = [
            F.cross_entropy(one, level[:, factor], ignore_index=-1, reduction="none")
            for factor, one in enumerate(logits)
        ]
        losses = torch.stack(parts, dim=1)  # (B, K)
        return (losses if sign is None else losses * sign).sum(1)

    def logits(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """(B, levels) of each factor."""
        with torch.autocast(embedding.device.type, enabled=False):
            x = F.normalize(embedding.to(self.weight.dtype), dim=1) * embedding.shape[1] ** 0.5
            return torch.split(F.linear(x, self.weight, self.bias), list(self.num_levels), dim=1)

    @torch.no_grad()
    def accuracy(self, embedding: Tensor, level: Tensor) -> list[float]:
        """Share of the known levels of each factor that are predicted rightly; nan without any."""
        found = []
        for factor, one in enumerate(self.logits(embedding)):
            known = level[:, factor] >= 0
            right = one.argmax(1)[known] == level[known, factor]
            found.append(float(right.float().mean()))
        return found


def fit_heads(
    heads: VariationHeads,
    embedding: Tensor,
    level: Tensor,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Fit the heads to frozen embeddings in place: AdamW, the rate falling linearly to 0.

    Args:
        embedding: (M, D), the same on every rank, so that the heads are.
        level: (M, K) int64, -1 unknown.
    """
    optimizer = torch.optim.AdamW(heads.parameters(), lr=learning_rate, weight_decay=_DECAY)
    steps = epochs * -(-len(embedding) // _BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for epoch in range(epochs):
        generator = torch_generator(seed, "variation heads", epoch)
        order = torch.randperm(len(embedding), generator=generator).to(embedding.device)
        for rows in torch.split(order, _BATCH):
            optimizer.zero_grad()
            heads(embedding[rows], level[rows]).mean().backward()
            optimizer.step()
            schedule.step()


def head_gradients(heads: VariationHeads, embedding: Tensor, level: Tensor) -> Mapping[str, Tensor]:
    """Gradient of the summed L_var in the heads alone, the embedding being a constant."""
    loss = heads(embedding.detach(), level).sum()
    values = torch.autograd.grad(loss, list(heads.parameters()))
    names = [name for name, _ in heads.named_parameters()]
    return dict(zip(names, values, strict=True))
