"""Embedding with an ONNX file through onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facetrain.core.errors import CheckpointError
from facetrain.core.log import logger


class OnnxBackbone:
    """An ONNX graph as a function of images in [-1, 1] (B, 3, S, S) -> (B, D) float32.

    A graph with a fixed batch dimension is fed in pieces of that size. A graph that begins with
    Sub and Mul does its own normalisation and is fed pixels in [0, 255]: InsightFace's rule, by
    which its models converted from MXNet are told from those of arcface_torch.

    Raises:
        CheckpointError: onnxruntime missing, an unreadable file, or a graph that is not a
            face-embedding network with finite weights.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise CheckpointError(
                f"{path}: reading .onnx needs onnx and onnxruntime ({error}); "
                "pip install facetrain[onnx]"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
            else:
                logger.warning("%s runs on the CPU: pip install onnxruntime-gpu", path)
        try:
            graph = onnx.load(str(path), load_external_data=False).graph
            self._session = onnxruntime.InferenceSession(str(path), options, providers)
        except Exception as error:  # both libraries raise types of their own
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path}: must be an ONNX model that onnxruntime can open; {reason}"
            ) from None
        self._takes_pixels = {"Sub", "Mul"} <= {node.op_type for node in graph.node[:8]}
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        square = (
            len(shape) == 4 and isinstance(shape[2], int) and shape[1:] == [3, shape[2], shape[2]]
        )
        if len(inputs) != 1 or len(outputs) != 1 or not square:
            raise CheckpointError(
                f"{path}: must take one image batch (B, 3, S, S) with a fixed S and give one "
                f"output, got inputs {[i.shape for i in inputs]} and {len(outputs)} output(s)"
            )
        self._input_name: str = inputs[0].name
        self._fixed_batch: int | None = shape[0] if isinstance(shape[0], int) else None
        self.image_size: int = shape[2]
        probe = self(torch.zeros(1, 3, self.image_size, self.image_size))
        if probe.ndim != 2 or not probe.isfinite().all():
            raise CheckpointError(
                f"{path}: must give finite embeddings (B, D), got shape {tuple(probe.shape)} "
                f"with {int((~probe.isfinite()).sum())} values that are not finite"
            )
        self.embedding_size: int = probe.shape[1]

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D), on the device of `image`."""
        pixels = (image + 1.0) * 127.5 if self._takes_pixels else image
        array = np.ascontiguousarray(pixels.float().cpu().numpy())
        size = self._fixed_batch or len(array)
        pieces = []
        for start in range(0, len(array), size):
            piece = array[start : start + size]
            short = size - len(piece)
            if short:
                piece = np.concatenate([piece, np.repeat(piece[-1:], short, axis=0)])
            (output,) = self._session.run(None, {self._input_name: piece})
            pieces.append(torch.from_numpy(output[: size - short]))
        return torch.cat(pieces).float().to(image.device)
