"""A trained backbone as a file for other programs."""

import dataclasses
import importlib.util
import io
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import UserError
from facetrain.core.lock import file_lock
from facetrain.core.log import logger
from facetrain.core.rng import torch_generator
from facetrain.core.text import printable
from facetrain.models.backbone import ModelConfig
from facetrain.models.onnx_model import OnnxBackbone
from facetrain.models.weights import load_module, save_backbone

ExportFormat = Literal["onnx", "pth", "safetensors"]

# Batch-norm folding reorders float32 sums; R100 differs by 3e-6 of the largest value, a wrong
# graph by about 1.
_TOLERANCE = 1e-4
# The lowest opset that torch's exporter writes directly; onnxruntime 1.14 (2023) reads it.
_OPSET = 18


@dataclasses.dataclass(frozen=True)
class Export:
    """A written file. `max_relative_difference` is torch against onnxruntime; None if not ONNX."""

    path: Path
    format: str
    config: ModelConfig
    max_relative_difference: float | None


def export(source: Path, file_format: str, out: Path) -> Export:
    """Write the backbone at `source` (what `load_module` reads) as `out`, atomically.

    onnx: input `data` (B, 3, S, S), RGB in [-1, 1], B free; output `embedding` (B, D). Compared
    with torch on three images before it is put in place.
    pth: arcface_torch's `backbone.pth`; for the networks it has (IResNet, MobileFaceNet).
    safetensors: ours.

    Raises:
        OutputError: nothing can be written there.
        UserError: unknown format, a network the format cannot carry, a missing package, or an
            ONNX graph that disagrees with torch.
        CheckpointError: `source` is not a good backbone.
    """
    if file_format not in get_args(ExportFormat):
        known = ", ".join(get_args(ExportFormat))
        raise UserError(f"--format must be one of {known}, got {file_format!r}")
    module, config = load_module(source)
    logger.info("%s: %s at %d pixels", printable(source), config.name, config.image_size)
    difference = None
    with file_lock(out):
        if file_format == "safetensors":
            save_backbone(module, config, out)
        elif file_format == "pth":
            _write_pth(module, config, out)
        else:
            difference = _write_onnx(module.eval(), config, out)
    return Export(out, file_format, config, difference)


def _write_pth(module: nn.Module, config: ModelConfig, out: Path) -> None:
    if config.name == "small":
        raise UserError(
            "--format pth is arcface_torch's, which has IResNet and MobileFaceNet only, got a "
            "'small' backbone; use --format safetensors or onnx"
        )
    content = io.BytesIO()  # on a full disk torch.save itself raises no OSError
    torch.save({name: value.contiguous() for name, value in module.state_dict().items()}, content)
    with atomic_path(out) as temporary:
        temporary.write_bytes(content.getbuffer())


def _write_onnx(module: nn.Module, config: ModelConfig, out: Path) -> float:
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise UserError(
            f"--format onnx needs {', '.join(missing)}, not installed; "
            "pip install '.[onnx]' in facetrain's folder"
        )
    # Traced with two images: the exporter would take a single one for a constant.
    example = torch.zeros(2, 3, config.image_size, config.image_size)
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        verbose=False,
        opset_version=_OPSET,
        input_names=["data"],
        output_names=["embedding"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces: paths of this machine
    with atomic_path(out) as temporary:
        program.save(str(temporary), external_data=False)
        difference = _difference(module, config, temporary)
        if not difference <= _TOLERANCE:
            raise UserError(
                f"{out}: torch and onnxruntime must agree within {_TOLERANCE:g} of the largest "
                f"value, but differ by {difference:.2e}; nothing was written. Try another "
                "version of torch or onnxruntime"
            )
    return difference


@torch.no_grad()
def _difference(module: nn.Module, config: ModelConfig, path: Path) -> float:
    """Largest |torch - onnxruntime| over the largest |torch|, on three random images."""
    size = config.image_size
    image = torch.rand(3, 3, size, size, generator=torch_generator(0, "export parity")) * 2 - 1
    expected = module(image)
    found = OnnxBackbone(path, torch.device("cpu"))(image)
    return float((found - expected).abs().max() / expected.abs().max())
