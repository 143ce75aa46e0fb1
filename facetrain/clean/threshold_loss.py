"""The loss that moves a class's threshold between its noise and its clean images."""

import torch
from torch import Tensor

_LEAST_ARGUMENT = 1e-6


def threshold_loss(
    clean_probability: Tensor,
    threshold: Tensor,
    is_clean: Tensor,
    *,
    margin_false_positive: float,
    margin_false_negative: float,
) -> Tensor:
    """Threshold-aware loss of each image, (N,), not reduced (ADC supplement, Algorithm 1).

    Eq. 6 of the paper has a misprint: in the clean image's branch `[t - m_fn]_+` must read
    `[(1 - t) - m_fn]_+`, else a false negative would raise the threshold, against Eq. 14:

        noise: -log(1 - [p - [t - m_fp]_+]_+)
        clean: -log(1 - [(1 - p) - [(1 - t) - m_fn]_+]_+)

    It is zero where noise has p + m_fp <= t and clean images have p - m_fn >= t. A false positive
    raises t (Eq. 13), a false negative lowers it (Eq. 14); elsewhere t has no gradient. The
    logarithm's argument is at least 1e-6, with no gradient below.

    Args:
        clean_probability: (N,) in [0, 1]; detach it to train the threshold alone.
        threshold: (N,) in [0, 1], each image's own class's.
        is_clean: (N,) bool, true or pseudo-label.
        margin_false_positive: m_fp, distance wanted between noise and the threshold above it.
        margin_false_negative: m_fn, distance wanted between clean images and the one below.
    """
    right = torch.where(is_clean, clean_probability, 1 - clean_probability)  # (N,)
    room = torch.where(
        is_clean, 1 - threshold - margin_false_negative, threshold - margin_false_positive
    )
    # 1 - [(1 - right) - [room]_+]_+ without cancellation, and like Algorithm 1 without a gradient
    # where it reaches 1.
    argument = right + room.relu()
    argument = torch.where(argument < 1, argument, 1.0)
    return -argument.clamp_min(_LEAST_ARGUMENT).log()
