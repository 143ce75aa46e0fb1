"""Whom a training set has in common with evaluation sets."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.posterior import Members, Posterior
from facetrain.core.errors import ConfigError, DataError
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.data.features import load_embedding
from facetrain.dist.mesh import Mesh
from facetrain.engine.inference import embed_images
from facetrain.models.weights import BackboneSource, load_backbone

_IMAGES_AT_ONCE = 256
_SHORTLIST = 4


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


def in_evaluation_set(
    found: Posterior, members: Members, person: Tensor, embedding: NDArray[np.floating]
) -> Tensor:
    """Which classes (C,) are of a person in an evaluation set, those of one person together.

    An evaluation image is of one of the classes whose centres are nearest, or of nobody; a class is
    flagged where an image is more likely its person's than not.

    Args:
        members: of all that carry each label.
        person: (C,) the class whose name each should take (`double_names`).
        embedding: (M, D) of the evaluation images, by the same backbone.
    """
    model, num_classes = found.model, len(person)
    shrink = model.between / (1 + model.between * members.precision[:, None])
    centre = torch.nn.functional.normalize(shrink * members.total)  # (C, D)
    flagged = torch.zeros_like(person, dtype=torch.bool)
    at_once = max(1, (1 << 24) // num_classes)
    for start in range(0, len(embedding), at_once):
        z = found.labelled.embedded.centred(embedding[start : start + at_once]) @ model.basis
        near = (z @ centre.mT).topk(min(_SHORTLIST, num_classes), dim=1).indices  # (m, S)
        ratio = model.log_ratio(z[:, None], *(one[near] for one in members))
        evidence = (found.calibration.temperature * ratio)[:, None]  # (m, 1, S)
        whose = person[near]  # (m, S)
        same = whose[:, :, None] == whose[:, None, :]
        total = evidence.masked_fill(~same, -torch.inf).logsumexp(2)  # of the person
        rival = evidence.masked_fill(same, -torch.inf).logsumexp(2)
        nobody = torch.full_like(rival, math.log(num_classes))
        likelier = total > torch.logaddexp(rival, nobody)
        flagged[whose[likelier]] = True
    return flagged[person]
