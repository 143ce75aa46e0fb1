"""Embedding with an ONNX file through onnxruntime."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.errors import CheckpointError
from facetrain.core.log import logger
from facetrain.models.input_format import Range
from facetrain.models.onnx_prologue import input_range

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_MOST_PIXELS = 4096  # a side; `pack` makes none larger
_MOST_VALUES = 1 << 30  # of a batch that the graph fixes: 28,532 images of 112 x 112
FIRST_RUN_SECONDS = 60.0
"""What one inference of one image may take; a ResNet-200 on one core takes two."""


class OnnxBackbone:
    """An ONNX graph as a function of images (B, 3, S, S) -> (B, D) float32.

    Images are cast to the type that the graph declares, and transposed where it takes
    (B, S, S, 3). A graph with a fixed batch dimension is fed in pieces of that size.

    Attributes:
        image_size: S.
        embedding_size: D.

    Raises:
        CheckpointError: onnxruntime missing, an unreadable file, or a graph that is not a
            face-embedding network with finite weights, or that does not end.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise CheckpointError(
                f"{path}: reading .onnx needs onnx and onnxruntime ({error}); "
                "pip install '.[onnx]' in facetrain's folder"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what went wrong is in the exception
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
            else:
                logger.warning("%s runs on the CPU: pip install onnxruntime-gpu", path)
        try:
            self._model = onnx.load(str(path), load_external_data=False)
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers, enable_fallback=0
            )
        except Exception as error:  # both libraries raise types of their own
            raise CheckpointError(
                f"{path}: must be an ONNX model that onnxruntime can open; {_reason(error)}"
            ) from None
        self.path = path
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape if inputs else []
        self._channels_last = len(shape) == 4 and shape[1] != 3 and shape[3] == 3
        sides = shape[1:3] if self._channels_last else shape[2:]
        square = len(shape) == 4 and isinstance(sides[0], int) and sides == [sides[0]] * 2
        channels = len(shape) == 4 and shape[3 if self._channels_last else 1] == 3
        if len(inputs) != 1 or len(outputs) != 1 or not square or not channels:
            raise CheckpointError(
                f"{path}: must take one image batch (B, 3, S, S) or (B, S, S, 3) with a fixed S "
                f"and give one output, got inputs {[i.shape for i in inputs]} and {len(outputs)} "
                "output(s)"
            )
        batch = shape[0] if isinstance(shape[0], int) else 1
        if not 1 <= sides[0] <= _MOST_PIXELS or batch * 3 * sides[0] ** 2 > _MOST_VALUES:
            raise CheckpointError(
                f"{path}: must take images of 1 to {_MOST_PIXELS} pixels a side, and at most "
                f"{_MOST_VALUES} values at once, got {shape}"
            )
        if inputs[0].type not in _TYPES:
            raise CheckpointError(
                f"{path}: must take images of {', '.join(_TYPES)}, got {inputs[0].type}; export "
                "it with an input of float32"
            )
        self._input_name: str = inputs[0].name
        self._dtype = np.dtype(_TYPES[inputs[0].type])
        self._fixed_batch: int | None = shape[0] if isinstance(shape[0], int) else None
        self.image_size: int = sides[0]
        limit = onnxruntime.RunOptions()
        timer = threading.Timer(FIRST_RUN_SECONDS, setattr, (limit, "terminate", True))
        timer.start()
        probe = self._run(self._blank(), limit)
        timer.cancel()
        if probe.ndim != 2 or not np.isfinite(probe).all():
            raise CheckpointError(
                f"{path}: must give finite embeddings (B, D), got shape {probe.shape} "
                f"with {int((~np.isfinite(probe)).sum())} values that are not finite"
            )
        self.embedding_size: int = probe.shape[1]

    @property
    def input_range(self) -> Range:
        """What black and white pixels should be, by the graph (see `models.onnx_prologue`).

        Raises:
            CheckpointError: it is not clear.
        """
        try:
            return input_range(self._model, self.path, self._blank())
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{self.path}: its first operations cannot be run by themselves; {_reason(error)}; "
                "give --input-range, what it was trained on"
            ) from None

    def _blank(self) -> NDArray[Any]:
        """One batch of input, of zeros."""
        size = self.image_size
        shape = (size, size, 3) if self._channels_last else (3, size, size)
        return np.zeros((self._fixed_batch or 1, *shape), self._dtype)

    def _run(self, batch: NDArray[Any], options: Any = None) -> NDArray[Any]:
        try:
            (output,) = self._session.run(None, {self._input_name: batch}, options)
        except Exception as error:
            raise CheckpointError(
                f"{self.path}: must run on images {batch.shape} and end within "
                f"{FIRST_RUN_SECONDS:.0f} s, but failed: {_reason(error)}"
            ) from None
        return np.asarray(output)

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) in the graph's own range -> (B, D), on the device of `image`."""
        array = image.float().cpu().numpy()
        if self._channels_last:
            array = array.transpose(0, 2, 3, 1)
        if self._dtype == np.uint8:
            array = array.round().clip(0, 255)
        array = np.ascontiguousarray(array, self._dtype)
        size = self._fixed_batch or len(array)
        pieces = []
        for start in range(0, len(array), size):
            piece = array[start : start + size]
            short = size - len(piece)
            if short:
                piece = np.concatenate([piece, np.repeat(piece[-1:], short, axis=0)])
            output = self._run(piece)
            pieces.append(torch.from_numpy(output[: size - short]))
        return torch.cat(pieces).float().to(image.device)


def _reason(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
