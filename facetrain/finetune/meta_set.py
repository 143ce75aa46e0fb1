"""The meta set: images of other people, with variation levels, that the margins are learned on."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.progress import progress
from facetrain.core.rng import numpy_generator
from facetrain.data.batches.augment import AugmentParameters, augment
from facetrain.data.batches.loader import Batch, OrderedLoader
from facetrain.data.batches.meta_sampler import MetaSampler
from facetrain.data.batches.planted_variation import (
    PLANTED_BLURS,
    PLANTED_OCCLUSIONS,
    draw_planted,
)
from facetrain.data.batches.planted_variation import planted as plant_parameters
from facetrain.data.dataset import FaceDataset
from facetrain.data.subset import Subset
from facetrain.data.variation.labels import Variations
from facetrain.dist.collectives import data_errors_on_all, gather_rows
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.engine.training import train_loader
from facetrain.finetune.settings import FinetuneStageConfig

_PLANTED = ("blur", "occlusion")
_FIT_IMAGES = 100_000
"""Images that the heads are fitted on and identities compared by: enough for linear heads, and
0.2 GB of embeddings."""
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class LevelBatch:
    """A rank's meta images on the device, and their levels."""

    image: Tensor  # (B, 3, H, W) float in [-1, 1]
    level: Tensor  # (B, K) int64, -1 unknown or padding


class MetaSet:
    """Images with levels, planted ones in place of stored ones where asked for.

    Args:
        variations: their levels, one row for each image of `dataset`.
    """

    def __init__(
        self,
        config: FinetuneStageConfig,
        dataset: FaceDataset,
        variations: Variations | None,
        mesh: Mesh,
    ) -> None:
        self.source = Subset(dataset, np.arange(dataset.num_images))
        meta = config.finetune.meta
        self._config, self._on_corrupt = config, meta.on_corrupt if meta else "error"
        self.plant, self.mesh, self.seed = config.finetune.plant, mesh, config.seed
        self.image_size, self.channels_last = config.model.image_size, config.train.channels_last
        plant = self.plant
        stored = variations or Variations({}, {})
        names = {n: stored.names[n] for n in stored.factors if not (plant and n in _PLANTED)}
        self._stored = Variations({n: stored.level[n] for n in names}, names)
        if plant:
            names = {**names, "blur": PLANTED_BLURS, "occlusion": PLANTED_OCCLUSIONS}
        self.names: dict[str, tuple[str, ...]] = names

    @property
    def num_identities(self) -> int:
        """In use."""
        return len(np.unique(self.source.label))

    def level(self) -> NDArray[np.int64]:
        """(M, K) stored levels; -1 for what is planted only when a batch is made."""
        table = np.full((self.source.num_images, len(self.names)), -1, np.int64)
        if self._stored.level:
            table[:, : len(self._stored.level)] = self._stored.take(self.source.images).table()
        return table

    def fit_sample(self, backbone: nn.Module, workers: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (M', D), levels (M', K) and identities (M',) of a sample, on every rank.

        A collective call; the backbone is in eval mode. Images that do not decode are left out, or
        refused, as the meta set's `on_corrupt` says.
        """
        number = self.source.num_images
        rng = numpy_generator(self.seed, "meta sample")
        # The same rows on every rank, each of which embeds its part.
        rows = np.sort(rng.permutation(number)[:_FIT_IMAGES])
        sample = Subset(self.source.dataset, self.source.images[rows])
        start, stop = shard_range(len(rows), self.mesh.rank, self.mesh.world_size)
        loader = OrderedLoader(
            sample, self.image_size, _BATCH, start, stop,
            workers=workers, on_corrupt=self._on_corrupt,
        )  # fmt: skip
        table = torch.from_numpy(self.level()[rows])
        if self.plant:
            table[:, -2:] = draw_planted(self.plant, len(rows), self.seed, -1)
        found = [np.zeros((0, self._config.model.embedding_size), np.float32)]
        shown = progress(loader, "meta set", unit="batch", enabled=self.mesh.is_main)
        with torch.no_grad(), data_errors_on_all(self.mesh):
            for batch in shown:
                image = self._on_device(batch, table[batch.index])
                skipped = (batch.label < 0).to(self.mesh.device)
                embedding = backbone(image).float().masked_fill(skipped[:, None], 0)
                found.append(embedding.cpu().numpy())
        whole = gather_rows(np.concatenate(found), self.mesh)  # (M, D)
        embedding = torch.from_numpy(whole).to(self.mesh.device)
        known = embedding.norm(dim=1) > 0
        device = embedding.device
        identity = torch.from_numpy(sample.label)
        return embedding[known], table.to(device)[known], identity.to(device)[known]

    def without(self, identity: NDArray[np.integer]) -> None:
        """Leave these identities out from here on."""
        kept = ~np.isin(self.source.label, identity)
        self.source = Subset(self.source.dataset, self.source.images[kept])

    def batches(self, sampler: MetaSampler, workers: int, start_step: int) -> Iterator[LevelBatch]:
        """This rank's meta batch of every step from `start_step` on, without end."""
        loader = train_loader(
            self._config, self.source, sampler, self.mesh, start_step,
            workers=workers, on_corrupt=self._on_corrupt,
        )  # fmt: skip
        table = torch.from_numpy(self.level())
        for step, batch in enumerate(loader, start_step):
            level = torch.where(batch.label[:, None] >= 0, table[batch.index], -1)  # (B, K)
            if self.plant:
                drawn = torch.from_numpy(sampler.levels_of_step(step)[:, -2:])
                rows = len(level)
                first = self.mesh.rank * rows
                # Past the last image is padding; its levels become -1 below.
                own = torch.arange(first, first + rows).clamp(max=len(drawn) - 1)
                level[:, -2:] = torch.where(batch.label[:, None] >= 0, drawn[own], -1)
            image = self._on_device(batch, level)
            yield LevelBatch(image, level.to(self.mesh.device, non_blocking=True))

    def _on_device(self, batch: Batch, level: Tensor) -> Tensor:
        parameters = AugmentParameters()
        if self.plant:
            parameters = plant_parameters(level[:, -2:].clamp_min(0), self.image_size)
        image = augment(batch.image.to(self.mesh.device, non_blocking=True), parameters)
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image


def check_other_people(meta: FaceDataset, train: FaceDataset) -> None:
    """Refuse a meta set whose identities are also trained on, by their numbers.

    Raises:
        DataError: shared identities.
    """
    shared = np.intersect1d(meta.class_ids, train.class_ids)
    if len(shared):
        some = ", ".join(map(str, shared[:5].tolist())) + (", ..." if len(shared) > 5 else "")
        raise DataError(
            f"the meta set must have other identities than the training set, but {len(shared)} of "
            f"its {meta.num_classes} are in both ({some}); leave them out with an overlay, or, "
            "where the two sets number their people independently, set "
            "finetune.meta.same_numbering=false to compare faces instead"
        )


def known_people(
    embedding: Tensor, identity: Tensor, class_centre: Tensor, similarity: float
) -> NDArray[np.int64]:
    """Identities of the meta set that look like one of the trained classes.

    Their mean unit embedding is at least `similarity` (a cosine) from a class centre.

    Args:
        embedding: (M, D).
        identity: (M,) int64.
        class_centre: (C, D) of this rank's shard.
    """
    people, place = torch.unique(identity, return_inverse=True)
    unit = torch.nn.functional.normalize(embedding, dim=1)
    mean = torch.zeros(len(people), unit.shape[1], device=unit.device).index_add_(0, place, unit)
    mean = torch.nn.functional.normalize(mean, dim=1)
    centre = torch.nn.functional.normalize(class_centre.detach(), dim=1)
    nearest = torch.full((len(people),), -1.0, device=unit.device)
    for part in torch.split(centre, 1 << 14):
        nearest = torch.maximum(nearest, (mean @ part.T).amax(1))
    return np.asarray(people[nearest >= similarity].cpu().numpy(), np.int64)


def log_contents(meta: MetaSet) -> None:
    """One log line about what the set holds."""
    factors = ", ".join(f"{name} ({len(levels)})" for name, levels in meta.names.items())
    logger.info(
        "meta set: %d images of %d other identities; factors %s",
        meta.source.num_images,
        meta.num_identities,
        factors,
    )
