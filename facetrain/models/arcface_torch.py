"""Recognising a state dict of InsightFace's arcface_torch by its names and shapes.

Its files hold tensors only: no name of the network, no image size. Both follow from the shapes.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from facetrain.core.errors import CheckpointError, ConfigError
from facetrain.models.backbone import ModelConfig
from facetrain.models.iresnet import IRESNET_BLOCKS


def identify(state: Mapping[str, Tensor], source: str) -> ModelConfig:
    """The backbone that `state` belongs to, from a few names and shapes; the rest is unchecked.

    Raises:
        CheckpointError: neither an IResNet of a known depth nor a MobileFaceNet.
    """
    try:
        if "fc.weight" in state and "layer4.0.conv1.weight" in state:
            return _identify_iresnet(state, source)
        if "conv_sep.layers.0.weight" in state and "features.layers.2.weight" in state:
            return _identify_mobilefacenet(state, source)
    except ConfigError as error:  # a size beyond every network's
        raise CheckpointError(
            f"{source}: its shapes must be those of a backbone, but they make {error}"
        ) from None
    names = ", ".join(list(state)[:4])
    raise CheckpointError(
        f"{source}: must be an arcface_torch IResNet or MobileFaceNet (names such as "
        f"layer1.0.bn1.weight or conv_sep.layers.0.weight), got names {names}, ...; other "
        "networks can be used as .onnx"
    )


def _num_children(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({n[len(prefix) :].split(".")[0] for n in state if n.startswith(prefix)})


def _identify_iresnet(state: Mapping[str, Tensor], source: str) -> ModelConfig:
    blocks = tuple(_num_children(state, f"layer{stage}.") for stage in (1, 2, 3, 4))
    depths = {known: depth for depth, known in IRESNET_BLOCKS.items()}
    if blocks not in depths:
        known = ", ".join(f"{depth}: {value}" for depth, value in IRESNET_BLOCKS.items())
        raise CheckpointError(
            f"{source}: must be an IResNet of a known depth, got {blocks} blocks a stage; "
            f"known are {known}"
        )
    weight = state["fc.weight"]
    places = math.isqrt(weight.shape[-1] // 512) if weight.ndim == 2 else 0
    if places < 2 or weight.shape[1] != 512 * places**2:
        raise CheckpointError(
            f"{source}: fc.weight must be (embedding_size, 512 * (image_size / 16)^2) with an "
            f"image_size of at least 32, got {tuple(weight.shape)}; is the file whole?"
        )
    return ModelConfig(
        name=f"iresnet{depths[blocks]}", embedding_size=weight.shape[0], image_size=16 * places
    )


def _identify_mobilefacenet(state: Mapping[str, Tensor], source: str) -> ModelConfig:
    # A first stage that is one convolution has its weight where a stage of blocks has none.
    first = 1 if "layers.1.layers.0.weight" in state else _num_children(state, "layers.1.layers.")
    blocks = (first, *(_num_children(state, f"layers.{i}.layers.") for i in (3, 5, 7)))
    stem = state.get("layers.0.layers.0.weight")
    kernel = state.get("features.layers.0.layers.0.weight")
    last = state["features.layers.2.weight"]
    if (
        stem is None
        or kernel is None
        or 0 in blocks
        or not stem.ndim == kernel.ndim == last.ndim + 2 == 4
        or stem.shape[0] % 64
    ):
        raise CheckpointError(
            f"{source}: must be a whole MobileFaceNet of a width that is a multiple of 64, got "
            f"{blocks} blocks a stage, stem {None if stem is None else tuple(stem.shape)}"
        )
    return ModelConfig(
        name="mobilefacenet",
        embedding_size=last.shape[0],
        image_size=16 * kernel.shape[-1],
        width=stem.shape[0],
        blocks=(blocks[0], blocks[1], blocks[2], blocks[3]),
    )
