"""What a method gave to every image in each epoch, kept for pictures: `samples/epoch_0003.npz`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facetrain.core.run_folder import SAMPLES
from facetrain.data.files.npz_file import write_npz
from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import Mesh


class SampleRecord:
    """Gathers values of the samples of an epoch on the device, and writes them when it is over.

    Images that the epoch passed over, or that came before a resume within it, are NaN. Of an image
    that came several times the last value counts, and the mean over ranks.
    """

    def __init__(self, out_dir: Path, num_images: int, mesh: Mesh) -> None:
        self.folder, self.num_images, self.mesh = out_dir / SAMPLES, num_images, mesh
        self._values: dict[str, Tensor] = {}
        self._seen = torch.zeros(num_images + 1, device=mesh.device)

    def add(self, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Note values (B,) of images at `index` (B,), of which -1 is padding."""
        if not values:
            return
        place = torch.where(index >= 0, index, self.num_images)
        self._seen[place] = 1
        for name, value in values.items():
            if name not in self._values:
                self._values[name] = torch.zeros_like(self._seen)
            self._values[name][place] = value.detach().float()

    def end_epoch(self, epoch: int) -> None:
        """Write what epoch `epoch`, counted from 1, gave; a collective call."""
        if not self._values:
            return
        seen = all_reduce_sum(self._seen[:-1].clone(), self.mesh)
        arrays: dict[str, Any] = {}
        for name, value in self._values.items():
            total = all_reduce_sum(value[:-1].clone(), self.mesh)
            arrays[name] = torch.where(seen > 0, total / seen, torch.nan).cpu().numpy()
        if self.mesh.is_main:
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"epoch_{epoch:04d}.npz"
            write_npz(path, arrays)
        self._values.clear()
        self._seen.zero_()
