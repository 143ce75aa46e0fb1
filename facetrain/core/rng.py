"""Random numbers as pure functions of (seed, purpose, position).

Nothing random is ever saved: a resumed run derives the same generators from the step it resumes
at, whatever its world size was before.
"""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed that depends on every part, e.g. `derive_seed(seed, "epoch", 3)`."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def numpy_generator(seed: int, *parts: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, *parts)))


def torch_generator(
    seed: int, *parts: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator for one purpose on `device`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *parts))
