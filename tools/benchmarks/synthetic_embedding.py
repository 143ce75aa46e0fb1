"""Embeddings of identities that nobody has, as large as they need be.

Centres with a power-law spectrum and some images of each around them, shuffled. A spectrum of
0.3 gives centres of 128 dimensions the effective dimension (83) that those of a small face network
have on LFW; 0 is the uniform sphere, the hardest case for an index.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from facetrain.core.rng import torch_generator

WITHIN = 0.6
"""Length of an image's offset from its centre: two images of an identity have cosine 0.73."""
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
) -> NDArray[np.int64]:
    """Write unit rows (num_rows, size) to an `.npy`, a part at a time; identities (num_rows,).

    `images` is how many an identity has in the mean.
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
        rows = F.normalize(centre[identity] + WITHIN * offset, dim=1)
        out[start : start + len(rows)] = rows.to(getattr(torch, dtype)).cpu().numpy()
    out.flush()
    return identities.cpu().numpy()
