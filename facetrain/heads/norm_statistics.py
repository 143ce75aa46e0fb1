"""Image quality by the norm of its embedding, against running statistics of all norms (AdaFace)."""

import torch
from torch import Tensor, nn

from facetrain.dist.collectives import all_gather_no_grad
from facetrain.dist.mesh import Mesh

_FIRST_MEAN, _FIRST_DEVIATION = 20.0, 100.0
_LEAST_NORM, _LARGEST_NORM = 1e-3, 100.0
_GUARD = 1e-3


class NormStatistics(nn.Module):
    """Running mean and deviation of embedding norms over all ranks' samples.

    Kim, Jain, Liu: AdaFace, CVPR 2022, section 3.2; first values, bounds and guard are those of the
    authors' code, where `memory` is 1 - t_alpha and `concentration` h.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_FIRST_MEAN))
        self.register_buffer("deviation", torch.tensor(_FIRST_DEVIATION))

    @torch.no_grad()
    def quality(
        self,
        embedding: Tensor,
        present: Tensor,
        mesh: Mesh,
        *,
        concentration: float,
        memory: float,
        learn: bool,
    ) -> Tensor:
        """(norm - mean) / deviation * concentration within [-1, 1], (B,); a collective call.

        Args:
            embedding: (B, D), not normalised.
            present: (B,) bool; False for padding, which no statistic knows.
            concentration: 0.333 puts two thirds of the images within a third of the range.
            memory: how much of the statistics stays.
            learn: let these norms, of all ranks, enter first.
        """
        norm = torch.linalg.vector_norm(embedding.to(self.mean.dtype), dim=1)
        norm = norm.clamp(_LEAST_NORM, _LARGEST_NORM)  # (B,)
        if learn:
            norms = all_gather_no_grad(torch.where(present, norm, torch.nan), mesh)  # (G,)
            number = norms.isfinite().sum()
            mean = torch.where(number > 0, norms.nanmean(), 0.0)
            deviation = ((norms - mean).square().nansum() / (number - 1).clamp_min(1)).sqrt()
            rate = torch.where(number > 1, 1.0 - memory, 0.0).to(norm.dtype)
            self.mean.lerp_(mean, rate)
            self.deviation.lerp_(deviation, rate)
        scaled: Tensor = (norm - self.mean) / (self.deviation + _GUARD) * concentration
        return scaled.clamp(-1.0, 1.0)
