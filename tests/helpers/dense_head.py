"""The margin softmax as its papers write it: one process, all logits, plain autograd. An oracle."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosface_logits(cosine: Tensor, margin: Tensor) -> Tensor:
    return cosine - margin


def arcface_logits(cosine: Tensor, margin: Tensor) -> Tensor:
    theta = torch.acos(cosine)
    beyond = cosine - margin * torch.sin(margin)
    return torch.where(theta + margin > torch.pi, beyond, torch.cos(theta + margin))


MARGINS = {"cosface": cosface_logits, "arcface": arcface_logits}


def dense_loss(
    embedding: Tensor,
    centre: Tensor,
    label: Tensor,
    margin: Tensor,
    scale: float,
    kind: str = "cosface",
) -> Tensor:
    """Cross-entropy (G,) with (G,) margins on the target's logit."""
    cosine = F.normalize(embedding) @ F.normalize(centre).T
    is_target = F.one_hot(label, centre.shape[0]).bool()
    logits = torch.where(is_target, MARGINS[kind](cosine, margin[:, None]), cosine)
    return F.cross_entropy(scale * logits, label, reduction="none")
