"""Embeddings from decoded images, the same way in every stage that needs them."""

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.core.errors import CheckpointError
from facetrain.core.progress import progress
from facetrain.data.batches.decoding import ImageSource
from facetrain.data.batches.loader import OrderedLoader
from facetrain.data.synthetic import SyntheticConfig, draw_nuisance, render
from facetrain.dist.mesh import Mesh
from facetrain.models.input_format import RANGES, BackboneFile
from facetrain.models.weights import BackboneSource, EmbeddingModel, backbone_path, load_backbone

Backbone = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [-1, 1], RGB -> embeddings (B, D): a module in eval mode, or a session."""


Precision = Literal["auto", "float32", "bfloat16"]


@torch.no_grad()
def embed_images(
    backbone: Backbone,
    image: Tensor,
    device: torch.device,
    *,
    flip: bool,
    precision: Precision = "auto",
) -> Tensor:
    """Embeddings (B, D) float32 on the CPU, not normalised.

    Args:
        image: (B, 3, H, W) uint8 RGB.
        flip: sum the embeddings of the image and of its mirror image, as the field evaluates.
        precision: of the backbone's products; `auto` is bfloat16 on a GPU, float32 on a CPU.
    """
    assert not getattr(backbone, "training", False), "a backbone embeds in eval mode only"
    x = image.to(device, torch.float32).div_(127.5).sub_(1.0)  # (B, 3, H, W)
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        embedding = backbone(x).float()  # (B, D)
        if flip:
            embedding = embedding + backbone(x.flip(3)).float()
    return embedding.cpu()


class BatchConfig(Protocol):
    """How a stage embeds its images."""

    @property
    def batch_size(self) -> int:
        """Images a rank embeds at once."""

    @property
    def flip(self) -> bool:
        """Add the embedding of the mirrored image."""

    @property
    def workers(self) -> int:
        """Decoding processes of each rank."""


def embed_rows(
    backbone: Backbone,
    source: ImageSource,
    rows: tuple[int, int],
    image_size: int,
    config: BatchConfig,
    mesh: Mesh,
    shown: str,
) -> Iterator[NDArray[np.float32]]:
    """Embeddings (B, D) of the images `rows[0]` to `rows[1]`, batch by batch, not normalised.

    Raises:
        DataError: an image cannot be read.
    """
    batches = OrderedLoader(
        source,
        image_size,
        config.batch_size,
        *rows,
        workers=config.workers,
        pin_memory=mesh.device.type == "cuda",
    )
    for batch in progress(batches, shown, total=len(batches), unit="batch", enabled=mesh.is_main):
        yield embed_images(backbone, batch.image, mesh.device, flip=config.flip).numpy()


_NUM_FACES = 10
_ALIKE = 0.999
"""Fed pixels of another range, networks embed any ten faces at cosines of 0.9998 and above; fed
what they want, trained or not, some two of them are below 0.96 (IResNet-18, MobileFaceNet, small).
"""


def open_backbone(source: BackboneSource, device: torch.device) -> EmbeddingModel:
    """`load_backbone`, and a trial where its input is somebody's word: an .onnx, or a format.

    Raises:
        CheckpointError: as `load_backbone`, or the network gives ten people one embedding.
    """
    model = load_backbone(source, device)
    if backbone_path(source).suffix == ".onnx" or isinstance(source, BackboneFile):
        image = torch.from_numpy(_ten_faces(model.image_size)).permute(0, 3, 1, 2)
        embedding = embed_images(model, image, device, flip=False).double()
        unit_embedding = embedding / embedding.norm(dim=1, keepdim=True)  # (10, D)
        least = float((unit_embedding @ unit_embedding.T).min())
        if not least < _ALIKE:
            raise CheckpointError(
                f"{backbone_path(source)}: must tell people apart, but gives {_NUM_FACES} "
                f"different faces embeddings of cosine {least:.5f} and more: its input is not what "
                f"it was trained on ({model.input_format}); try another --input-range "
                f"({' | '.join(RANGES)}) or --channel-order (rgb | bgr)"
            )
    return model


def _ten_faces(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(10, size, size, 3) rendered faces of as many people."""
    config = SyntheticConfig(size=112)
    faces = [render(config, i, 0, draw_nuisance(config, i, 0))[0] for i in range(_NUM_FACES)]
    return np.stack([cv2.resize(face, (size, size)) for face in faces])
