"""Similarity between neighbours -> the weights of Eq. 16."""

from torch import Tensor

_LEAST_ROW_SUM = 1e-8


def normalised_affinity(similarity: Tensor, mask: Tensor) -> Tensor:
    """Each neighbour's share of its row's similarity (ADC supplement, Eq. 16), (N, K).

    The paper divides by the plain sum, which a negative cosine can bring to zero or below. Here
    a negative similarity counts as zero, and a row whose sum is under 1e-8 is all zero. Such a
    neighbour remains one: it contributes activation(bias).

    Args:
        similarity: (N, K) cosines.
        mask: (N, K) bool, False where a slot holds no neighbour; the affinity there is zero.
    """
    positive = similarity.clamp_min(0).masked_fill(~mask, 0)  # (N, K)
    row_sum = positive.sum(dim=1, keepdim=True)  # (N, 1)
    share = positive / row_sum.clamp_min(_LEAST_ROW_SUM)
    return share.masked_fill(row_sum < _LEAST_ROW_SUM, 0)
