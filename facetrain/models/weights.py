"""Backbones to and from files.

Ours are safetensors with the `ModelConfig` as JSON in the metadata. Those of arcface_torch (.pth,
.pt) and .onnx are read too. No pickle is ever loaded unrestricted.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facetrain.core.artifact import fingerprint, read_artifact
from facetrain.core.config import parse_config
from facetrain.core.errors import CheckpointError, DataError
from facetrain.models.arcface_torch import identify
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.folding import fold_normalisations
from facetrain.models.input_format import RGB, BackboneFile, InputFormat
from facetrain.models.onnx_model import OnnxBackbone
from facetrain.models.tensor_file import read_tensors, save_tensors
from facetrain.models.unwrap import check_tensor, count_batches, unwrap

BACKBONE_FILE = "backbone.safetensors"
_CONFIG_KEY = "facetrain_model_config"
BackboneSource = Path | BackboneFile


@dataclasses.dataclass(frozen=True)
class EmbeddingModel:
    """A backbone for inference: call it on images (B, 3, S, S) in [-1, 1] for (B, D) float32.

    Embeddings are not normalised, carry no gradient and lie on `device`.
    """

    image_size: int
    embedding_size: int
    source: str
    device: torch.device
    forward: Callable[[Tensor], Tensor]
    input_format: InputFormat = RGB

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) float, on any device -> (B, D)."""
        assert image.shape[1:] == (3, self.image_size, self.image_size), image.shape
        return self.forward(self.input_format.apply(image.to(self.device))).float()


def save_backbone(module: nn.Module, config: ModelConfig, path: Path) -> None:
    """Write a backbone and its configuration to one safetensors file, atomically.

    Args:
        module: `build_backbone(config)` with its weights; unwrapped (no DDP, no torch.compile).
        path: the file, ending in .safetensors so that it can be read back.

    Raises:
        OutputError: the file cannot be written.
    """
    state = module.state_dict()
    assert _misfit(state, _empty(config)) is None, _misfit(state, _empty(config))
    save_tensors(path, state, _CONFIG_KEY, config.model_dump(mode="json"))


def load_module(path: Path) -> tuple[nn.Module, ModelConfig]:
    """Read a backbone's module, on the CPU in training mode, and its configuration.

    Args:
        path: a `train` folder (with `backbone.safetensors`), a .safetensors file, or an
            arcface_torch .pth, .pt or .ckpt, also within a training's checkpoint.

    Raises:
        CheckpointError: no such file, unknown kind, damaged or hostile content, names or shapes
            that do not fit, or a weight that is not finite.
    """
    path = _file(path)
    if path.suffix == ".safetensors":
        state, config = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt", ".ckpt"):
        state = unwrap(_read_pickle(path), str(path))
        config = identify(state, str(path))
    else:
        raise CheckpointError(
            f"{path}: must be a train folder, .safetensors, .pth or .pt here, got {path.suffix!r}"
        )
    module = _empty(config)
    expected = module.state_dict()
    count_batches(state, expected, str(path))
    misfit = _misfit(state, module)
    if misfit is not None:
        raise CheckpointError(f"{path}: must fit {config.name}, but {misfit}")
    for name, value in state.items():
        check_tensor(name, value, expected[name], str(path))
    kept = {n: v.float() if v.is_floating_point() else v.long() for n, v in state.items()}
    module.load_state_dict(kept, strict=True, assign=True)
    return module, config


def load_into(module: nn.Module, path: Path, model: ModelConfig) -> None:
    """Put the weights of a file or `train` folder into `module`, built from `model`.

    Raises:
        CheckpointError: as `load_module`, or weights of another network.
    """
    loaded, theirs = load_module(path)
    misfit = _misfit(loaded.state_dict(), module)
    if theirs.name != model.name or misfit is not None:
        options = theirs.model_dump(exclude_defaults=True, mode="json")
        raise CheckpointError(
            f"model.weights={path}: must be of the recipe's network {model.name}, but are of "
            f"{options}{f' ({misfit})' if misfit else ''}; set the recipe's section model to that"
        )
    module.load_state_dict(loaded.state_dict())


def load_backbone(source: BackboneSource, device: torch.device | str = "cpu") -> EmbeddingModel:
    """Read a backbone for inference: what `load_module` reads, or an .onnx.

    Args:
        source: the file or folder; a `BackboneFile` where its images are not RGB in [-1, 1].

    Raises:
        CheckpointError: as `load_module`; for .onnx also when onnxruntime is not installed, or
            when the range of its pixels is neither given nor clear.
    """
    given = source.input_format if isinstance(source, BackboneFile) else RGB
    path, device = _file(backbone_path(source)), torch.device(device)
    if path.suffix == ".onnx":
        graph = OnnxBackbone(path, device)
        format = dataclasses.replace(given, range=given.range or graph.input_range)
        size = graph.image_size, graph.embedding_size
        return EmbeddingModel(*size, str(path), device, graph, format)
    if path.suffix not in (".safetensors", ".pth", ".pt", ".ckpt"):
        raise CheckpointError(
            f"{path}: must be a train folder, .safetensors, .pth, .pt or .onnx, got {path.suffix!r}"
        )
    module, config = load_module(path)
    module = module.to(device).eval()
    if device.type == "cpu":
        module = fold_normalisations(module)
    return EmbeddingModel(
        config.image_size, config.embedding_size, str(path), device, module, given
    )


def backbone_path(source: BackboneSource) -> Path:
    """The file or folder of a backbone."""
    return source.path if isinstance(source, BackboneFile) else source


def backbone_inputs(source: BackboneSource) -> dict[str, str]:
    """Name -> fingerprint of what makes a backbone's embeddings, for a stage's manifest."""
    path = backbone_path(source)
    inputs = {"backbone": fingerprint(path / BACKBONE_FILE if path.is_dir() else path)}
    if isinstance(source, BackboneFile) and source.input_format != RGB:
        inputs["backbone_input"] = str(source.input_format)
    return inputs


def _file(path: Path) -> Path:
    """The file that `path` means."""
    if path.is_dir():
        if not (path / BACKBONE_FILE).is_file():
            raise CheckpointError(
                f"{path}: a folder must hold {BACKBONE_FILE}, which `train` writes when it "
                "finishes, but there is none; give a finished train folder or a weight file"
            )
        _verify(path)
        return path / BACKBONE_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: must be a backbone's file or folder, but there is none")
    return path


def _verify(folder: Path) -> None:
    """Refuse a finished training's weights that are not as it left them."""
    try:
        artifact = read_artifact(folder)
        if artifact is not None:
            artifact.verify(BACKBONE_FILE)
    except DataError as error:
        raise CheckpointError(str(error)) from None


def _empty(config: ModelConfig) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"), _Unfilled():
        return build_backbone(config)


class _Unfilled(TorchFunctionMode):
    """Leaves `normal_` out: without memory it fills nothing, but loads torch's compiler for 1 s."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


def _misfit(state: Mapping[str, Tensor], module: nn.Module) -> str | None:
    """How names and shapes of `state` differ from the module's; None when they do not."""
    expected = module.state_dict()
    problems = []
    for kind, names in (
        ("missing", [n for n in expected if n not in state]),
        ("unexpected", [n for n in state if n not in expected]),
    ):
        if names:
            more = ", ..." if len(names) > 3 else ""
            problems.append(f"{len(names)} names are {kind}: {', '.join(names[:3])}{more}")
    for name, value in expected.items():
        if name in state and state[name].shape != value.shape:
            problems.append(
                f"{name} has shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            )
            break
    return "; ".join(problems) or None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelConfig]:
    state, config = read_tensors(path, _CONFIG_KEY)
    if config is None:
        state = unwrap(state, str(path))
        return state, identify(state, str(path))
    return state, parse_config(ModelConfig, config, str(path))


def _read_pickle(path: Path) -> object:
    """`torch.load` restricted to tensors and plain containers."""
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named:
            raise CheckpointError(
                f"{path}: must hold tensors only, but it names {named.group(1)}; such a file can "
                "run code when it is opened and is not loaded. Save `backbone.state_dict()` instead"
            ) from None
        raise CheckpointError(
            f"{path}: must be a file of torch.save, whole and with tensors only, but it cannot "
            f"be read as one ({type(error).__name__}); copy or save it again"
        ) from None
    return content
