"""Augmentation of a whole batch on its device.

`draw` is the random part: numbers for the whole global batch from (seed, step), on the CPU, so a
rank slices its own and any world size sees the same images. `augment` is the deterministic part:
no loop over samples, no host synchronisation, no shape that depends on the data. An operation
that its configuration turns off costs nothing. Order: flip, rotation, zoom and shift (one
resampling), blur and low resolution (one pair of matrix products), gamma, colour, erasing.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional

from facetrain.core.config import Config
from facetrain.core.option_of import Of
from facetrain.core.rng import torch_generator

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_ERASE_ASPECT = 3.3  # the widest box is 3.3 times as wide as high, as in Random Erasing
_NUM_UNIFORMS = 24  # columns of the one draw; each operation owns some, used or not


def _is_range(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1]:
        raise ValueError("must be [low, high] with 0 < low <= high")
    return value


Probability = Annotated[float, Field(ge=0, le=1)]
Jitter = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], AfterValidator(_is_range)]


class AugmentConfig(Config):
    """How far each image is changed; everything but the flip is off unless asked for."""

    flip_probability: Probability = 0.5
    """Mirrored left-right."""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation uniform in +- this."""
    scale: Range = (1.0, 1.0)
    """Zoom, log-uniform in [low, high]; above 1 crops, below 1 shrinks the face."""
    aspect: Range = (1.0, 1.0)
    """Width to height, log-uniform in [low, high]."""
    translate: Jitter = 0.0
    """Shift uniform in +- this part of the side, both axes."""
    brightness: Jitter = 0.0
    """Light times a factor uniform in 1 +- this."""
    contrast: Jitter = 0.0
    """Distance from the image's mean grey times a factor uniform in 1 +- this."""
    saturation: Jitter = 0.0
    """Distance from each pixel's grey times a factor uniform in 1 +- this."""
    gamma: Jitter = 0.0
    """Light to the power exp(u), u uniform in +- this."""
    grey_probability: Probability = 0.0
    """Colour removed."""
    blur_probability: Probability = 0.0
    """Gaussian blur."""
    blur_sigma: Annotated[Range, Of("blur_probability")] = (0.3, 1.5)
    """Of the blur in pixels, uniform in [low, high]."""
    low_resolution_probability: Probability = 0.0
    """Shrunk by area, enlarged bilinearly."""
    low_resolution_min_scale: Annotated[
        float, Field(gt=0, le=1), Of("low_resolution_probability")
    ] = 0.3
    """Smallest shrunk side, as a part of the side; uniform up to 1."""
    erase_probability: Probability = 0.0
    """One box of the image replaced."""
    erase_area: Annotated[Range, Of("erase_probability")] = (0.02, 0.2)
    """The box's part of the image's area, uniform in [low, high]."""
    erase_fill: Annotated[Literal["random", "mean"], Of("erase_probability")] = "random"
    """`random` a random colour; `mean` the image's mean colour."""


@dataclasses.dataclass(frozen=True)
class AugmentParameters:
    """What `augment` does to each of G images; None where the configuration is off."""

    flip: Tensor | None = None  # (G,) bool; in `affine` instead where there is one
    affine: Tensor | None = None
    """(G, 2, 3) from output to input position, in half sides from the centre."""
    blur_sigma: Tensor | None = None  # (G,) pixels, 0 for none
    low_resolution: Tensor | None = None  # (G,) shrunk side as a part of the side, 1 for none
    gamma: Tensor | None = None  # (G,) exponent
    colour: Tensor | None = None  # (G, 3) factors of brightness, contrast, saturation
    erase_box: Tensor | None = None
    """(G, 4) top, left, height, width as parts of the side; height 0 for none."""
    erase_colour: Tensor | None = None  # (G, 3) in [-1, 1]; None fills with the image's mean colour

    def _each(self, change: Callable[[Tensor], Tensor]) -> "AugmentParameters":
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return AugmentParameters(
            **{name: None if value is None else change(value) for name, value in fields.items()}
        )

    def slice(self, start: int, stop: int) -> "AugmentParameters":
        """Those of images `start` to `stop`; past G, for padding, the last image's again."""
        index = torch.arange(start, stop)
        return self._each(lambda value: value[index.clamp(max=len(value) - 1)])

    def to(self, device: torch.device | str) -> "AugmentParameters":
        """The same on `device`, without waiting for it."""
        return self._each(lambda value: value.to(device, non_blocking=True))


def _log_uniform(u: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = math.log(limits[0]), math.log(limits[1])
    return (low + u * (high - low)).exp()


def _affine(config: AugmentConfig, flip: Tensor, u: tuple[Tensor, ...]) -> Tensor:
    """Output-to-input maps (G, 2, 3) of: mirror, then stretch, then rotate, then shift."""
    rotation, scale, aspect, shift_x, shift_y = u
    angle = (2 * rotation - 1) * math.radians(config.rotate_degrees)
    zoom = _log_uniform(scale, config.scale)
    root = _log_uniform(aspect, config.aspect).sqrt()
    # A half side is the unit, so a shift of one side is 2.
    x = (2 * shift_x - 1) * 2 * config.translate
    y = (2 * shift_y - 1) * 2 * config.translate
    per_x = torch.where(flip, -1.0, 1.0) / (zoom * root)
    per_y = root / zoom
    cosine, sine = angle.cos(), angle.sin()
    a, b = cosine * per_x, sine * per_x
    c, d = -sine * per_y, cosine * per_y
    rows = (a, b, -(a * x + b * y), c, d, -(c * x + d * y))
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def draw(config: AugmentConfig, batch_size: int, seed: int, step: int) -> AugmentParameters:
    """Parameters for the global batch of one step, G = `batch_size` images, on the CPU.

    One operation's numbers do not depend on which others are on.
    """
    generator = torch_generator(seed, "augment", step)
    u = torch.rand(batch_size, _NUM_UNIFORMS, generator=generator).unbind(1)
    # Geometry: one affine map, or the mirror alone.
    flip = u[0] < config.flip_probability
    result: dict[str, Tensor] = {}
    if (
        config.rotate_degrees
        or config.translate
        or (config.scale, config.aspect) != ((1.0, 1.0), (1.0, 1.0))
    ):
        result["affine"] = _affine(config, flip, u[1:6])
    elif config.flip_probability:
        result["flip"] = flip
    # Sharpness.
    if config.blur_probability:
        low, high = config.blur_sigma
        sigma = low + u[7] * (high - low)
        result["blur_sigma"] = torch.where(u[6] < config.blur_probability, sigma, 0.0)
    if config.low_resolution_probability:
        low = config.low_resolution_min_scale
        is_low = u[8] < config.low_resolution_probability
        result["low_resolution"] = torch.where(is_low, low + u[9] * (1 - low), 1.0)
    # Light and colour.
    if config.gamma:
        result["gamma"] = ((2 * u[10] - 1) * config.gamma).exp()
    if config.brightness or config.contrast or config.saturation or config.grey_probability:
        half_width = torch.tensor([config.brightness, config.contrast, config.saturation])
        colour = 1 + (2 * torch.stack(u[11:14], dim=1) - 1) * half_width
        colour[:, 2] = torch.where(u[14] < config.grey_probability, 0.0, colour[:, 2])
        result["colour"] = colour
    # A box of some area and shape, somewhere inside.
    if config.erase_probability:
        low, high = config.erase_area
        area = low + u[16] * (high - low)
        root = _log_uniform(u[17], (1 / _ERASE_ASPECT, _ERASE_ASPECT)).sqrt()
        height = (area.sqrt() / root).clamp(max=1)
        width = (area.sqrt() * root).clamp(max=1)
        box = torch.stack((u[18] * (1 - height), u[19] * (1 - width), height, width), dim=1)
        result["erase_box"] = torch.where((u[15] < config.erase_probability)[:, None], box, 0.0)
        if config.erase_fill == "random":
            result["erase_colour"] = 2 * torch.stack(u[20:23], dim=1) - 1
    return AugmentParameters(**result)


def _centres(size: int, like: Tensor) -> Tensor:
    """Pixel centres in half sides from the image's centre, (size,)."""
    return (2 * torch.arange(size, device=like.device) + 1) / size - 1


def _resample(image: Tensor, affine: Tensor) -> Tensor:
    """Bilinear samples of (B, 3, H, W) at the affine positions, mirrored beyond the border."""
    x = _centres(image.shape[3], image)
    y = _centres(image.shape[2], image)[:, None]
    m = affine[:, :, :, None, None]  # (B, 2, 3, 1, 1)
    # Written out: as a matrix product it would lose bits under TF32.
    grid = torch.addcmul(m[:, :, 1] * y + m[:, :, 2], m[:, :, 0], x)  # (B, 2, H, W)
    return functional.grid_sample(
        image, grid.permute(0, 2, 3, 1), "bilinear", "reflection", align_corners=False
    )


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(B, size, size): each row a Gaussian, its tails mirrored at the borders, that sums to 1."""
    i = torch.arange(size, device=sigma.device, dtype=torch.float32)
    # Mirrored, input pixel j also stands at -1 - j and at 2 size - 1 - j.
    sources = torch.stack((i, -1 - i, 2 * size - 1 - i))  # (3, size)
    squared = (i[:, None, None] - sources).square()  # (size, 3, size)
    variance = sigma.clamp(min=0.05).square()[:, None, None, None]  # 0.05 is the identity already
    # Clamped because exp takes ten times as long where it underflows.
    weight = (squared / (-2 * variance)).clamp_(min=-80).exp_().sum(2)  # (B, size, size)
    return weight / weight.sum(2, keepdim=True)


def _low_resolution_matrix(scale: Tensor, size: int) -> Tensor:
    """(B, size, size): mean over areas down to round(scale * size), then bilinear back up."""
    number = (scale * size).round().clamp(min=1)[:, None, None]  # (B, 1, 1) small pixels
    i = torch.arange(size, device=scale.device, dtype=torch.float32)
    small, pixel = i[:, None], i[None, :]
    step = size / number
    overlap = torch.minimum((small + 1) * step, pixel + 1) - torch.maximum(small * step, pixel)
    shrink = overlap.clamp(min=0) / step  # (B, small, pixel)
    position = ((pixel + 0.5) / step - 0.5).clamp(min=0).minimum(number - 1)
    enlarge = (1 - (position - small).abs()).clamp(min=0)  # (B, small, pixel); unused small: 0
    return enlarge.transpose(1, 2) @ shrink


def _soften(image: Tensor, parameters: AugmentParameters) -> Tensor:
    """Blur and low resolution: both are one matrix along each axis, whatever each image's size."""
    sigma, scale = parameters.blur_sigma, parameters.low_resolution
    size = image.shape[3]
    if sigma is not None and scale is not None:
        matrix = _low_resolution_matrix(scale, size) @ _blur_matrix(sigma, size)
        changed = (sigma > 0) | (scale < 1)
    elif sigma is not None:
        matrix, changed = _blur_matrix(sigma, size), sigma > 0
    elif scale is not None:
        matrix, changed = _low_resolution_matrix(scale, size), scale < 1
    else:
        return image
    matrix = matrix[:, None]  # (B, 1, size, size)
    return torch.where(changed[:, None, None, None], matrix @ image @ matrix.mT, image)


def _recolour(image: Tensor, factors: Tensor) -> Tensor:
    """Saturation, brightness, contrast of (B, 3, H, W) in [-1, 1], as one pass.

    With grey g and its mean m, x -> g + s (x - g), then light (x + 1) times b, then the distance
    from the mean grey times c: together p x + q g + r with the factors below.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1)
    red, green, blue = image[:, :, None].unbind(1)  # (B, 1, H, W)
    grey = (_LUMA[0] * red).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    mean = brightness * (grey.mean((2, 3), keepdim=True) + 1) - 1
    p = contrast * brightness * saturation
    q = contrast * brightness * (1 - saturation)
    r = contrast * (brightness - 1) + (1 - contrast) * mean
    return torch.addcmul(q * grey + r, p, image).clamp_(-1, 1)


def _erase(image: Tensor, box: Tensor, colour: Tensor | None) -> Tensor:
    """Replace the pixels whose centres lie in the box."""
    top, left, height, width = box[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1)
    y = ((_centres(image.shape[2], image) + 1) / 2)[:, None]
    x = (_centres(image.shape[3], image) + 1) / 2
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)  # (B, 1, H, W)
    fill = image.mean((2, 3), keepdim=True) if colour is None else colour[:, :, None, None]
    return torch.where(inside, fill, image)


@torch.no_grad()
def augment(image: Tensor, parameters: AugmentParameters) -> Tensor:
    """Augmented images (B, 3, H, W) float32 in [-1, 1]; image / 127.5 - 1 where nothing is drawn.

    Args:
        image: (B, 3, H, W) uint8, H = W, on any device.
    """
    assert image.dtype == torch.uint8
    assert image.shape[2] == image.shape[3]
    parameters = parameters.to(image.device)
    # Half precision would cost 8-bit images their low bits.
    with torch.autocast(image.device.type, enabled=False):
        if parameters.flip is not None:
            image = torch.where(parameters.flip[:, None, None, None], image.flip(3), image)
        x = image.float().div_(127.5).sub_(1)
        if parameters.affine is not None:
            x = _resample(x, parameters.affine)
        x = _soften(x, parameters)
        if parameters.gamma is not None:
            light = ((x + 1) / 2).clamp(0, 1)
            x = 2 * light ** parameters.gamma[:, None, None, None] - 1
        if parameters.colour is not None:
            x = _recolour(x, parameters.colour)
        if parameters.erase_box is not None:
            x = _erase(x, parameters.erase_box, parameters.erase_colour)
        return x
