"""Small sets of synthetic people and what the identity model says of them, without a GCN."""

from typing import Any

import numpy as np
from helpers.people import CPU, GRAPH, embedded, random_unit
from numpy.typing import NDArray
from torch import Tensor

from facetrain.clean.double_names import double_names
from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.model_choice import fit_to
from facetrain.clean.posterior import (
    NUM_CANDIDATES,
    Calibration,
    Estimation,
    Posterior,
)
from facetrain.core.rng import numpy_generator
from facetrain.dist.mesh import Mesh

MESH = Mesh.single(CPU)
SIZE = 16
PLAIN = Calibration(temperature=0.5)


def gaussian_people(seed: int, sizes: list[int], image: float = 0.35) -> tuple[Any, Any]:
    """Embeddings (N, SIZE) of identities 0, 1, ... with so many images each, and their labels.

    Args:
        seed: of the draw.
        sizes: images of each identity.
        image: standard deviation of an image, identities having 1.
    """
    generator = numpy_generator(seed, "gaussian people")
    label = np.repeat(np.arange(len(sizes)), sizes)
    person = generator.normal(size=(len(sizes), SIZE))
    embedding = person[label] + image * generator.normal(size=(len(label), SIZE))
    return embedding.astype(np.float32), label


def labelled_as(embedding: NDArray[Any], label: NDArray[np.integer], *verified: int) -> LabelledSet:
    """The embeddings, with an exact graph, under these labels; those of `verified` are certain."""
    certain = np.isin(np.arange(len(label)), verified)
    labels = np.asarray(label, np.int64)
    return LabelledSet(embedded(embedding), labels, GRAPH, verified=certain)


def model_of(labelled: LabelledSet) -> IdentityModel:
    """Fitted in full belief in the labels."""
    return fit_to(labelled, labelled.ones())


def answer_of(labelled: LabelledSet, model: IdentityModel | None = None, **more: Any) -> Posterior:
    """The posterior at fixed temperatures."""
    arguments = {"calibration": PLAIN, "cleaner_logit": None, "mesh": MESH, **more}
    return Estimation(labelled, model or model_of(labelled), **arguments).run().posterior()


def said(labelled: LabelledSet, found: Posterior, image: int) -> dict[int, float]:
    """Probability of each label that an image was compared with, and of nobody as -1."""
    place = found.place[image]
    ids = labelled.classes.class_id[place[place >= 0]].tolist()
    chances = found.probability[image, : len(ids)].tolist()
    return {-1: float(found.nobody[image]), **dict(zip(ids, chances, strict=True))}


def slow_candidates(embedding: NDArray[Any], label: NDArray[np.integer], image: int) -> list[int]:
    """The given label, then other labels in the order of the image's neighbours by centred cosine.

    Of its GRAPH.num_context nearest by centred cosine among its 30 nearest by plain cosine.
    """
    unit = embedding.astype(np.float64) / np.linalg.norm(embedding, axis=1, keepdims=True)
    plain = unit @ unit[image]
    plain[image] = -np.inf
    nearest = np.argsort(-plain, kind="stable")[:30]
    centred = unit - unit.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    nearest = nearest[np.argsort(-(centred[nearest] @ centred[image]), kind="stable")]
    found = [int(label[image])]
    for other in label[nearest[: GRAPH.num_context]].tolist():
        if other >= 0 and other not in found:
            found.append(other)
    return found[:NUM_CANDIDATES]


class Case:
    """People under labels, and what the model says of them."""

    def __init__(self, embedding: Any, label: Any, person: Any) -> None:
        self.labelled: LabelledSet = labelled_as(embedding, label)
        self.model: IdentityModel = model_of(labelled_as(embedding, person))
        self.found = answer_of(self.labelled, self.model)
        self.members = self.found.members_by_label(self.labelled.place_of_row)

    def person(self, seed: int = 0) -> Tensor:
        """What `double_names` finds."""
        return double_names(self.found, self.members, seed)


NUM_PEOPLE = 60


def doubled() -> tuple[Any, Any, Any]:
    """Sixty people of 6 images. Of 0 and 1 two, three are under the names 70 and 80; person 3 has
    the face of 2, twenty degrees aside.
    """
    embedding, person = gaussian_people(0, [6] * NUM_PEOPLE, image=0.3)
    generator = numpy_generator(4, "alike")
    centre = random_unit(generator, 1, SIZE)[0] * np.sqrt(SIZE)
    aside = random_unit(generator, 1, SIZE)[0]
    aside -= (aside @ centre) / SIZE * centre
    aside *= np.tan(np.radians(20)) * np.sqrt(SIZE) / np.linalg.norm(aside)
    noise = 0.3 * generator.normal(size=(12, SIZE))
    embedding[12:24] = centre + noise + np.repeat([0 * aside, aside], 6, 0)
    label = person.copy()
    label[[4, 5]] = 70
    label[[9, 10, 11]] = 80
    return embedding, label, person
