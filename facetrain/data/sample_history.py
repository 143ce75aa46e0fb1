"""What a training kept of its images, epoch by epoch, as `engine.sample_record` writes it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.run_folder import SAMPLES
from facetrain.data.files.npz_file import read_npz


class SampleHistory(NamedTuple):
    """One thing that was kept of every image, over epochs."""

    epochs: NDArray[np.int64]  # (E,) counted from 1
    values: NDArray[np.float32]  # (E, N), NaN where an epoch did not visit the image


def read_samples(out_dir: Path, most_epochs: int | None = None) -> dict[str, SampleHistory]:
    """Name -> what a training kept of its images; {} without any.

    Args:
        most_epochs: of more epochs, so many are read, evenly spread.
    """
    files = sorted((out_dir / SAMPLES).glob("epoch_*.npz"))
    count = min(most_epochs or len(files), len(files))
    spread = np.linspace(0, len(files) - 1, count).round().astype(int)
    found: dict[str, list[tuple[int, NDArray[np.float32]]]] = {}
    for path in (files[place] for place in spread):
        for name, values in read_npz(path, "what a training kept of its images").items():
            found.setdefault(name, []).append((int(path.stem[6:]), values))
    return {
        name: SampleHistory(np.array([e for e, _ in kept]), np.stack([v for _, v in kept]))
        for name, kept in found.items()
    }
