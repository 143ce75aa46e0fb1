"""Embeddings of identities that nobody has, as large as they need be.

Centres with a power-law spectrum and some images of each around them, shuffled. A spectrum of 0
is the uniform sphere, the hardest case for an index; 0.5 gives centres of 128 dimensions the
effective dimension (83) that LFW's faces have under a MobileFaceNet, 0.3 one of 113. With
`FACES_WITHIN` and `FACES_TAIL` two images of an identity have cosines of 0.44, 0.59, 0.69, 0.77 and
0.85 (quantiles 5, 25, 50, 75 and 95 %); those faces have 0.43, 0.60, 0.69, 0.76 and 0.85.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from facetrain.core.rng import torch_generator

WITHIN = 0.6
"""Length of an image's offset from its centre: two images of an identity have cosine 0.73."""
FACES_WITHIN, FACES_TAIL = 0.65, 0.4
FACES_SPECTRUM = 0.5
_ROWS_AT_ONCE = 1 << 17


def write_embedding(
    path: Path,
    num_rows: int,
    size: int,
    dtype: str,
    spectrum: float,
    device: torch.device,
    *,
    seed: int = 0,
    images: int = 20,
    within: float = WITHIN,
    tail: float = 0.0,
) -> NDArray[np.int64]:
    """Write unit rows (num_rows, size) to an `.npy`, a part at a time; identities (num_rows,).

    Args:
        images: how many an identity has in the mean.
        within: length of an image's offset from its centre, the median over images.
        tail: standard deviation of its logarithm. Faces have hard images, far from the others.
    """
    generator = torch_generator(seed, "synthetic embedding", device=device)
    num_identities = max(1, num_rows // images)
    deviation = torch.arange(1, size + 1, device=device) ** (-spectrum / 2)
    deviation /= deviation.norm()
    centre = torch.randn(num_identities, size, generator=generator, device=device)
    centre = F.normalize(centre * deviation, dim=1)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(num_rows, size))
    identities = torch.randint(num_identities, (num_rows,), generator=generator, device=device)
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        identity = identities[start : start + _ROWS_AT_ONCE]
        offset = torch.randn(len(identity), size, generator=generator, device=device) * deviation
        if tail:
            length = torch.randn(len(identity), 1, generator=generator, device=device)
            offset *= torch.exp(tail * length)
        rows = F.normalize(centre[identity] + within * offset, dim=1)
        out[start : start + len(rows)] = rows.to(getattr(torch, dtype)).cpu().numpy()
    out.flush()
    return identities.cpu().numpy()
