"""Arithmetic of the backbone: which dtype, and one overflow decision for all ranks in fp16."""

import torch

from facetrain.core.errors import UserError


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype for `precision`; None means float32. `auto` is bfloat16 on a GPU."""
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    if precision == "float16" and device.type != "cuda":
        raise UserError(
            "train.precision=float16 needs a GPU, but this run is on a CPU; use bfloat16 or float32"
        )
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


class LossScaler:
    """Dynamic loss scaling for float16.

    torch's own scaler decides overflow from the gradients a rank holds; with class centres
    sharded, ranks hold different ones and would part ways. Here the decision is made on the
    global gradient norm, which is the same number on every rank.
    """

    growth_interval = 2000

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = 2.0**16 if enabled else 1.0
        self._good_steps = 0

    def update(self, *, finite: bool) -> bool:
        """Adapt the scale after a step's gradients; False means the step must be skipped."""
        if not self.enabled:
            return True
        if finite:
            self._good_steps += 1
            if self._good_steps == self.growth_interval:
                self.scale, self._good_steps = self.scale * 2.0, 0
        else:
            self.scale, self._good_steps = max(self.scale / 2.0, 1.0), 0
        return finite

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "good_steps": self._good_steps}

    def load(self, state: dict[str, float]) -> None:
        """Restore `state()`; ignored when this run does not scale."""
        if self.enabled:
            self.scale, self._good_steps = state["scale"], int(state["good_steps"])
