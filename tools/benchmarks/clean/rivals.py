"""Other people's ways to find wrong labels among features, for `benchmarks.clean.run`."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.core.rng import torch_generator
from facetrain.data.features import unit_rows
from facetrain.dist.mesh import Mesh
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.heads.sub_centres import drop_beyond

_EPOCHS, _BATCH, _RATE = 30, 256, 0.01


class Judged(NamedTuple):
    """What a way says of N images."""

    kept: NDArray[np.bool_]
    score: NDArray[np.float64]  # the higher, the cleaner


def sub_centre_drop(embedding: NDArray[Any], label: NDArray[np.integer], seed: int = 0) -> Judged:
    """Sub-center ArcFace's cleaning: beyond 75 degrees from the dominant of three sub-centres.

    The features are what they are, so only the sub-centres are trained, under CosFace. The mean is
    taken off first: some networks give strangers a cosine of 0.85.

    Args:
        embedding: (N, D).
        label: (N,) from 0 up, without gaps.
    """
    unit = unit_rows(embedding).astype(np.float32)
    x = torch.from_numpy(unit_rows(unit - unit.mean(0)).astype(np.float32))
    y = torch.from_numpy(np.asarray(label, np.int64))
    config = HeadConfig(num_centres=3, scale=32, cosine_margin=0.2)
    head = MarginHead(config, int(y.max()) + 1, x.shape[1], Mesh.single(), seed)
    optimizer = torch.optim.Adam(head.parameters(), _RATE)
    for epoch in range(_EPOCHS):
        order = torch.randperm(len(x), generator=torch_generator(seed, "sub-centres", epoch))
        for rows in torch.split(order, _BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(head(x[rows], y[rows]).loss.mean())
            optimizer.step()
    answer = drop_beyond(x, y, head.weight.detach())
    return Judged(answer.kept.numpy(), answer.cosine.double().numpy())
