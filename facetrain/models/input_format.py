"""The images that a network expects, where they are not RGB in [-1, 1]."""

import dataclasses
from pathlib import Path
from typing import Literal

from torch import Tensor

Range = tuple[float, float]
RANGES: dict[str, Range] = {"-1,1": (-1.0, 1.0), "0,1": (0.0, 1.0), "0,255": (0.0, 255.0)}
"""Name on the command line -> what a black and a white pixel become."""


@dataclasses.dataclass(frozen=True)
class InputFormat:
    """How the images of a network are given.

    Attributes:
        range: of the pixels; None: [-1, 1], and of an .onnx what its graph begins with.
    """

    range: Range | None = None
    order: Literal["rgb", "bgr"] = "rgb"

    def apply(self, image: Tensor, default: Range = RANGES["-1,1"]) -> Tensor:
        """Images (B, 3, H, W), RGB in [-1, 1], as the network wants them."""
        low, high = self.range or default
        if (low, high) != RANGES["-1,1"]:
            image = (image + 1.0) * ((high - low) / 2) + low
        return image.flip(1) if self.order == "bgr" else image

    def __str__(self) -> str:
        return f"range {self.range}, order {self.order}"


RGB = InputFormat()
"""RGB in [-1, 1], unless an .onnx says otherwise."""


@dataclasses.dataclass(frozen=True)
class BackboneFile:
    """A backbone's file or folder, and how its images are given."""

    path: Path
    input_format: InputFormat
