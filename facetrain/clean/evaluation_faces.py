"""Embeddings of evaluation sets, to find whom a training set has in common with them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.data.features import load_embedding
from facetrain.dist.mesh import Mesh
from facetrain.engine.inference import embed_images
from facetrain.models.weights import BackboneSource, load_backbone

_IMAGES_AT_ONCE = 256


def excluded_embeddings(
    paths: Sequence[Path], embedding_size: int, backbone: BackboneSource | None, mesh: Mesh
) -> list[NDArray[np.floating]]:
    """Embeddings (M, D) of each set: stored ones of a `.npz`, or a `.bin` through `backbone`.

    Raises:
        ConfigError: a `.bin` without a backbone.
        DataError: not such a file, or embeddings of another size.
    """
    found: list[NDArray[np.floating]] = []
    for path in paths:
        if path.suffix == ".bin":
            if backbone is None:
                raise ConfigError(
                    f"{path}: excluding a .bin set needs the backbone that made the target's "
                    "embeddings, and with --target there is none; give its embeddings as .npz"
                )
            embedding = _embed(VerificationSet.open(path), backbone, mesh)
        else:
            embedding = load_embedding(path)
        if embedding.shape[1] != embedding_size:
            raise DataError(
                f"{path}: must hold embeddings of the target's {embedding_size} numbers an image, "
                f"but has {embedding.shape[1]}; embed it with the same backbone"
            )
        found.append(embedding)
    return found


def _embed(faces: VerificationSet, backbone: BackboneSource, mesh: Mesh) -> NDArray[np.floating]:
    """Every image of the pairs, (2P, D)."""
    model = load_backbone(backbone, mesh.device)
    size, parts = model.image_size, []
    for start in range(0, 2 * faces.num_pairs, _IMAGES_AT_ONCE):
        numbers = range(start, min(start + _IMAGES_AT_ONCE, 2 * faces.num_pairs))
        images = np.stack([faces.decode(number, size) for number in numbers])
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        parts.append(embed_images(model, batch, mesh.device, flip=True).numpy())
    return np.concatenate(parts)
