"""1:N identification on folders of one's own: who of the gallery is on each probe?"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.text import printable
from facetrain.data.images.align import align
from facetrain.data.images.codec import Image, decode_image, fit_square
from facetrain.data.images.landmarks import check_places, read_landmarks
from facetrain.data.sources.image import SourceImage
from facetrain.data.sources.list_images import list_images
from facetrain.dist.collectives import data_errors_on_all, gather_rows
from facetrain.dist.mesh import Mesh
from facetrain.dist.shard import shard_range
from facetrain.engine.inference import embed_rows
from facetrain.evaluate.evaluate import EvaluateConfig
from facetrain.metrics.identification import identification, search
from facetrain.metrics.verification import check_norms
from facetrain.models.weights import EmbeddingModel

Points = dict[str, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class PeopleFolder:
    """The images of a folder with a folder a person, or of a `.lst` or tar; to be loaded.

    Attributes:
        images: sorted by person.
        landmarks: (5, 2) points by name, from `path`'s parent or from `path` on; or None.
    """

    path: Path
    images: Sequence[SourceImage]
    people: Sequence[str]
    landmarks: Points | None

    @classmethod
    def open(cls, path: Path, landmarks: Points | None, scratch: Path) -> "PeopleFolder":
        """List the images.

        Raises:
            DataError: no images, or people without names.
        """
        listing = list_images(path, scratch)
        if listing.identities is None:
            raise DataError(
                f"{path}: must hold a folder a person, by whose name gallery and probes are matched"
            )
        if listing.refused:
            logger.warning(
                "%s: %d files are nobody's image or cannot be read, and are left out: %s",
                path, len(listing.refused), ", ".join(str(one[0]) for one in listing.refused[:20]),
            )  # fmt: skip
        faces = cls(path, listing.images, listing.identities, landmarks)
        marked = [(faces.points(image), image.read) for image in listing.images]
        check_places([(points, read) for points, read in marked if points is not None])
        return faces

    def points(self, image: SourceImage) -> NDArray[np.float64] | None:
        """(5, 2) landmarks of an image, if there are any."""
        known = self.landmarks or {}
        found = known.get(f"{self.path.name}/{image.name}")
        return known.get(image.name) if found is None else found

    @property
    def person(self) -> list[str]:
        """Name of the person on each image."""
        return [self.people[int(image.label[0])] for image in self.images]

    def digests(self) -> Iterator[tuple[bytes, str]]:
        """Of each image's file, with the image's name; what cannot be read is told in `decode`."""
        for image in self.images:
            with contextlib.suppress(DataError):
                yield hashlib.blake2b(image.read(), digest_size=16).digest(), image.name

    def decode(self, index: int, size: int) -> Image:
        """(size, size, 3) uint8 RGB: aligned by its points; without any it counts as aligned.

        Raises:
            DataError: the image does not decode, or has no points where others have.
        """
        source = self.images[index]
        where = f"{self.path}: {source.name}"
        try:
            encoded = source.read()
        except DataError as error:
            raise DataError(f"{where} {error}") from None
        image = decode_image(encoded, where)
        if self.landmarks is None:
            return fit_square(image, size)
        points = self.points(source)
        if points is None:
            raise DataError(
                f"{where} must have landmarks of a face, as the others; add them, or remove it"
            )
        return align(image, points, size)


def _unit_embeddings(
    backbone: EmbeddingModel, faces: PeopleFolder, mesh: Mesh, config: EvaluateConfig
) -> NDArray[np.float64]:
    """(N, D) of unit rows, each rank a share; every rank returns all of them."""
    rows = shard_range(len(faces.images), mesh.rank, mesh.world_size)
    local = [np.zeros((0, backbone.embedding_size), np.float32)]
    with data_errors_on_all(mesh):
        local += embed_rows(
            backbone, faces, rows, backbone.image_size, config, mesh, f"embed {faces.path.name}"
        )
    whole = gather_rows(np.concatenate(local), mesh)
    norm = np.linalg.norm(whole.astype(np.float64), axis=1)
    check_norms(norm, str(faces.path))
    return np.asarray(whole / norm[:, None], np.float64)


def _tell_what_says_nothing(known: PeopleFolder, searched: PeopleFolder) -> None:
    """Warn of probes that are images of the gallery, and where no probe has a mate."""
    if not set(known.person) & set(searched.person):
        logger.warning(
            "%s: no probe's person is in %s, so there are no ranks; a person's folder must have "
            "one name in both",
            searched.path, known.path,
        )  # fmt: skip
    enrolled = {digest for digest, _ in known.digests()}
    if copies := [name for digest, name in searched.digests() if digest in enrolled]:
        logger.warning(
            "%s: %d of %d probes are images of the gallery %s (%s), which are found by any "
            "network; remove them from one of the two",
            searched.path, len(copies), len(searched.images), known.path, printable(copies[0]),
        )  # fmt: skip


def evaluate_galleries(
    config: EvaluateConfig,
    backbone: EmbeddingModel,
    gallery: Path,
    probe: Path,
    landmarks: Path | None,
    scratch: Path,
    mesh: Mesh,
) -> dict[str, dict[str, Any]]:
    """Name of the probes' folder -> `identification` (see `metrics.identification`) and counts.

    A person of the gallery is one template, the mean of their unit embeddings; every probe image
    is searched by itself. A probe is mated when its person's name is in the gallery.

    Args:
        config: flip, batch size and workers count.
        landmarks: CSV of five points for both; names from either folder on, or from its parent.
        scratch: where a compressed tar is unpacked to.

    Raises:
        DataError: a folder without images, an image that does not decode, or landmarks of others.
    """
    points = read_landmarks(landmarks).points if landmarks else None
    folders = [PeopleFolder.open(path, points, scratch) for path in (gallery, probe)]
    known, searched = folders
    if mesh.is_main:
        _tell_what_says_nothing(known, searched)
    number = {name: place for place, name in enumerate(known.people)}
    unit_gallery = _unit_embeddings(backbone, known, mesh, config)
    subject = np.array([number[name] for name in known.person])
    template = np.zeros((len(number), unit_gallery.shape[1]))
    np.add.at(template, subject, unit_gallery)
    present = np.unique(subject)  # a folder may be empty
    template = template[present]
    norm = np.linalg.norm(template, axis=1)
    check_norms(norm, f"{gallery}: templates")
    unit_probe = _unit_embeddings(backbone, searched, mesh, config)
    probe_subject = np.array([number.get(name, -1) for name in searched.person])
    found = identification(search(unit_probe, probe_subject, template / norm[:, None], present))
    numbers = {
        "identification": {gallery.name: found},
        "num_gallery_identities": len(present),
        "num_gallery_images": len(known.images),
        "num_probe_images": len(searched.images),
    }
    return {probe.name: numbers}
