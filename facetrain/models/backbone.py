"""Which backbone, how big, and where it begins."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from facetrain.core.config import Config
from facetrain.core.option_of import Of
from facetrain.models.iresnet import IRESNET_BLOCKS, IResNet
from facetrain.models.mobilefacenet import MobileFaceNet
from facetrain.models.own_network import check_network, is_own, own_function
from facetrain.models.small import SmallResNet

_Count = Annotated[int, Field(ge=1, le=200)]


class ModelConfig(Config):
    """A backbone: images (B, 3, image_size, image_size) in [-1, 1] -> embeddings (B, D).

    `None` is the network's own value. An option that a network does not have is refused.
    """

    name: str
    """A network of ours, or `package.module:function`: your own function from this configuration
    to an `nn.Module`."""
    embedding_size: int = Field(default=512, ge=1, le=16384)
    """D, numbers of an embedding."""
    image_size: int = Field(default=112, ge=32, le=1024, multiple_of=16)
    """Pixels of an edge of its images; others are resized."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Before the last layer, in training."""
    width: int | None = Field(default=None, ge=1, le=4096)
    """Channels of the first stage."""
    blocks: tuple[_Count, _Count, _Count, _Count] | None = None
    """Residual blocks of the four stages."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    se: bool = False
    """Squeeze and excitation in every block of an iresnet: IR-SE."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in _NETWORKS and not is_own(name):
            raise ValueError(
                f"must be one of {', '.join(_NETWORKS)}, or package.module:function of your own"
            )
        return name

    @model_validator(mode="after")
    def _applicable(self) -> "ModelConfig":
        options = _OPTIONS if is_own(self.name) else _NETWORKS[self.name][1]
        for option in _OPTIONS:
            value = getattr(self, option)
            if option not in options and value != type(self).model_fields[option].default:
                raise ValueError(f"{self.name} has no {option}, got {option}={value}; remove it")
        if self.name == "mobilefacenet" and self.width is not None and self.width % 64:
            raise ValueError(
                f"mobilefacenet's width must be a multiple of 64, got {self.width}; "
                "arcface_torch's is 128, the paper's is 64"
            )
        return self


class TrainedModelConfig(ModelConfig):
    """A backbone, and how its training begins."""

    weights: Path | None = None
    """Begin with the weights of this file or `train` folder, and with a new classifier."""
    freeze: Annotated[tuple[str, ...], Of("weights")] = ()
    """Parts of the network that stay as they are, e.g. [conv1, bn1, layer1]."""
    centres: Annotated[Literal["class_means", "random"], Of("weights")] = "class_means"
    """With `weights`: where the classifier begins; the means of each class's embeddings take one
    pass over the images."""

    def network(self) -> ModelConfig:
        """What is built, and kept with its weights."""
        fields = {name: getattr(self, name) for name in ModelConfig.model_fields}
        return ModelConfig(**fields)


def _iresnet(config: ModelConfig, depth: int) -> nn.Module:
    return IResNet(
        depth,
        config.embedding_size,
        config.image_size,
        config.dropout,
        config.gradient_checkpointing,
        config.se,
    )


def _mobilefacenet(config: ModelConfig) -> nn.Module:
    return MobileFaceNet(
        config.embedding_size, config.image_size, config.width or 128, config.blocks or (1, 4, 6, 2)
    )


def _small(config: ModelConfig) -> nn.Module:
    return SmallResNet(
        config.embedding_size,
        config.image_size,
        config.width or 32,
        config.blocks or (1, 1, 1, 1),
        config.dropout,
    )


def _vit(config: ModelConfig, size: str) -> nn.Module:
    from facetrain.models.vit import ViT  # torchvision takes a while to import

    return ViT(size, config.embedding_size, config.image_size, config.dropout)


_OPTIONS = ("dropout", "width", "blocks", "gradient_checkpointing", "se")

# name -> how to build it, and the options it has
_NETWORKS: dict[str, tuple[Callable[[ModelConfig], nn.Module], frozenset[str]]] = {
    **{
        f"iresnet{depth}": (
            partial(_iresnet, depth=depth),
            frozenset({"dropout", "gradient_checkpointing", "se"}),
        )
        for depth in IRESNET_BLOCKS
    },
    "mobilefacenet": (_mobilefacenet, frozenset({"width", "blocks"})),
    **{f"vit_{size}": (partial(_vit, size=size), frozenset({"dropout"})) for size in "tsb"},
    "small": (_small, frozenset({"dropout", "width", "blocks"})),
}


def build_backbone(config: ModelConfig) -> nn.Module:
    """A freshly initialised backbone, from torch's global random state, on the current device.

    Raises:
        ConfigError: a network of the user's own that is not found or breaks the contract.
    """
    if is_own(config.name):
        module = own_function(config.name)(config)
        check_network(module, config.name, config.embedding_size, config.image_size)
        return module
    build, _ = _NETWORKS[config.name]
    return build(config)
