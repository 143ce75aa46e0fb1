"""Training the cleaner: on planted noise, then on the target it is for.

ADC (Zhang et al., ICCV 2021), supplement Algorithm and Eqs. 1-5: pre-training on source classes
with known noise, then rounds in which pseudo-labels of the target are made and the cleaner takes
meta-updates, source classes as meta-train and target classes as meta-test.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from facetrain.clean.cleaner import (
    NUM_PASSES,
    Cleaner,
    clean_probability,
    pass_weight,
    passes,
)
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.fresh_noise import fresh_noise
from facetrain.clean.labelled_set import Backend, LabelledSet, NodeInput, Piece
from facetrain.clean.meta_update import Parameters, meta_gradient
from facetrain.core.config import Config
from facetrain.core.progress import progress
from facetrain.core.rng import derive_seed, numpy_generator
from facetrain.dist.mesh import Mesh
from facetrain.graph.class_graphs import ClassGraphs
from facetrain.models.gcn import GCNConfig

_DRAWN_IMAGES = 4096
"""In a draw of noise: more are in the next one."""
_TARGET_IMAGES = 1 << 15


class GraphConfig(Config):
    """What the GCN reads, and how its graph is made."""

    node_input: NodeInput = "relational"
    """`embedding` is the paper's literal form, `canonical` turns each class to one axis first;
    both memorise the people of a source with few identities."""
    num_neighbours: int = Field(20, ge=1)
    """K of the class graphs."""
    num_context: int = Field(40, ge=1)
    """Neighbours in the global graph, of any class."""
    backend: Backend = "native"
    """`dgl` gives the same numbers, more slowly."""
    gcn: GCNConfig = GCNConfig(bias=True)


class PretrainConfig(Config):
    """Learning from planted noise."""

    num_draws: int = Field(48, ge=1)
    """Times that fresh noise is planted."""
    batch_classes: int = Field(64, ge=1)
    """B: class graphs in a step."""
    learning_rate: float = Field(3e-3, gt=0)
    """Adam's, falling to zero by half a cosine."""
    weight_decay: float = Field(1e-4, ge=0)
    """Adam's, of all weights."""


class MetaConfig(Config):
    """Meta-supervision: how the cleaner is brought to the target."""

    num_rounds: int = Field(2, ge=0)
    """Times that pseudo-labels are made; 0 leaves the pre-trained cleaner as it is."""
    num_steps: int = Field(60, ge=1)
    """Meta-updates in a round."""
    learning_rate: float = Field(1e-3, gt=0)
    """Adam's, of the outer step."""
    inner_learning_rate: float = Field(1e-2, gt=0)
    """alpha of Eqs. 1-5."""
    source_weight: float = Field(0.5, ge=0, le=1)
    """gamma: the share of the source's loss."""
    second_order: bool = True
    """Keep the Hessian's term of Eq. 5."""
    ambiguous: tuple[float, float] = (0.35, 0.65)
    """Probabilities that give no pseudo-label in the first round; later every image has one."""

    @field_validator("ambiguous")
    @classmethod
    def _low_before_high(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        low, high = bounds
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"must be two probabilities, the lower first, got {low:g} and {high:g}"
            )
        return bounds


class TrustedLabels(NamedTuple):
    """Embedded images of which some labels are believed."""

    embedded: EmbeddedSet
    label: NDArray[np.int64]  # (num_images,)
    trusted: NDArray[np.bool_]  # (num_images,)


def labelled_set(
    config: GraphConfig,
    embedded: EmbeddedSet,
    label: NDArray[np.int64],
    is_clean: NDArray[np.bool_] | None = None,
) -> LabelledSet:
    """`embedded` under these labels, as `config` wants it read."""
    return LabelledSet(
        embedded,
        label,
        is_clean,
        num_neighbours=config.num_neighbours,
        node_input=config.node_input,
        backend=config.backend,
    )


def draw_noise(
    config: GraphConfig, known: TrustedLabels, seed: int, *parts: int | str
) -> LabelledSet:
    """`known` under freshly planted noise."""
    label, is_clean = fresh_noise(known.label, known.trusted, seed, *parts)
    return labelled_set(config, known.embedded, label, is_clean)


def some_classes(known: TrustedLabels, most_images: int, seed: int) -> TrustedLabels:
    """All that is trusted, or that of random classes with at most `most_images` images of it."""
    count = np.bincount(known.label[known.trusted], minlength=1)
    if int(count.sum()) <= most_images:
        return known
    order = numpy_generator(seed, "some classes").permutation(len(count))
    chosen = np.zeros(len(count), np.bool_)
    chosen[order[np.cumsum(count[order]) <= most_images]] = True
    return known._replace(trusted=known.trusted & chosen[known.label])


def draw_piece(
    labelled: LabelledSet, seed: int, *parts: int | str, most_images: int = _DRAWN_IMAGES
) -> Piece:
    """All large classes (all, where none is), or random ones with about `most_images` images."""
    large = labelled.large if len(labelled.large) else torch.arange(labelled.classes.num_classes)
    order = numpy_generator(seed, "piece", *parts).permutation(len(large))
    classes = large[torch.from_numpy(order)]
    images = labelled.classes.size[classes].cumsum(0)
    return labelled.piece(classes[(images <= most_images) | (images == images[:1])])


def batches(graphs: ClassGraphs, size: int, seed: int, *parts: int | str) -> tuple[Tensor, ...]:
    """Random batches of the classes."""
    order = numpy_generator(seed, "batches", *parts).permutation(graphs.num_classes)
    classes = torch.from_numpy(order).to(graphs.start.device)
    return torch.split(classes, size)


def pretrain(
    graph: GraphConfig, config: PretrainConfig, source: TrustedLabels, seed: int, *, show: bool
) -> Cleaner:
    """A cleaner trained by binary cross-entropy on fresh noise in the source's trusted images."""

    def drawn(draw: int) -> Piece:
        return draw_piece(draw_noise(graph, source, seed, "pretrain", draw), seed, draw)

    first = drawn(0)
    torch.manual_seed(derive_seed(seed, "cleaner"))
    cleaner = Cleaner(graph.gcn, first.features(first.owner.certain())).to(source.embedded.device)
    optimizer = torch.optim.Adam(
        cleaner.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_draws)
    draws = range(config.num_draws)
    for draw in progress(draws, "clean: learn", total=len(draws), unit="draw", enabled=show):
        piece = drawn(draw)
        truth = piece.truth().float()
        for number, features in enumerate(passes(cleaner, piece)):
            for classes in batches(piece.graphs, config.batch_classes, seed, draw, number):
                class_graph, node = piece.graph(classes)
                logit = cleaner(features[node], class_graph).logit
                loss = binary_cross_entropy_with_logits(logit, truth[node])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        schedule.step()
    return cleaner


class _Supervised(NamedTuple):
    """A piece with the labels to learn: features of each pass, targets, and which count."""

    piece: Piece
    features: list[Tensor]  # NUM_PASSES of (N, F)
    target: Tensor  # (N,) float
    counts: Tensor  # (N,) float, 0 or 1

    def loss(
        self, cleaner: Cleaner, number: int, classes: Tensor, parameters: Parameters
    ) -> Tensor:
        """Mean cross-entropy on these classes in this pass."""
        graph, node = self.piece.graph(classes)
        output = functional_call(cleaner, parameters, (self.features[number][node], graph))
        loss = binary_cross_entropy_with_logits(output.logit, self.target[node], reduction="none")
        counts = self.counts[node]
        return (loss * counts).sum() / counts.sum().clamp(min=1)


def _source_draws(
    graph: GraphConfig, cleaner: Cleaner, source: TrustedLabels, seed: int, *parts: int | str
) -> Iterator[_Supervised]:
    """Fresh noise without end, its second pass by the cleaner as it then is."""
    draw = 0
    while True:
        piece = draw_piece(draw_noise(graph, source, seed, *parts, draw), seed, *parts, draw)
        truth = piece.truth().float()
        yield _Supervised(piece, list(passes(cleaner, piece)), truth, torch.ones_like(truth))
        draw += 1


def _pseudo_labelled(
    cleaner: Cleaner, target: LabelledSet, mesh: Mesh, ambiguous: tuple[float, float], seed: int
) -> _Supervised:
    """The target with the cleaner's own answers as labels, the ambiguous ones left out."""
    answers = clean_probability(cleaner, target, mesh)
    piece = draw_piece(target, seed, most_images=_TARGET_IMAGES)
    row = piece.graphs.row
    weights = [target.certain(), pass_weight(target, row, answers[0][row])]
    answer = answers[-1][row]
    low, high = ambiguous
    sure = (answer <= low) | (answer >= high)
    features = [piece.features(weight) for weight in weights]
    return _Supervised(piece, features, (answer > 0.5).float(), sure.float())


def adapt(
    graph: GraphConfig,
    config: MetaConfig,
    cleaner: Cleaner,
    source: TrustedLabels,
    target: LabelledSet,
    mesh: Mesh,
    seed: int,
    *,
    batch_classes: int,
) -> Cleaner:
    """A cleaner brought to `target` by meta-supervision; the one given stays as it is."""
    cleaner = copy.deepcopy(cleaner)
    if len(target.large) == 0:
        return cleaner
    parameters: Parameters = dict(cleaner.named_parameters())
    optimizer = torch.optim.Adam(cleaner.parameters(), config.learning_rate)
    for round_number in range(config.num_rounds):
        ambiguous = config.ambiguous if round_number == 0 else (0.5, 0.5)
        part = derive_seed(seed, "meta", round_number)
        test = _pseudo_labelled(cleaner, target, mesh, ambiguous, part)
        pairs = _pairs(_source_draws(graph, cleaner, source, part), test, batch_classes, part)
        label = f"clean: meta-supervision, round {round_number + 1}"
        steps = range(config.num_steps)
        shown = progress(steps, label, total=len(steps), unit="step", enabled=mesh.is_main)
        for step, (train, train_classes, test_classes) in zip(shown, pairs, strict=False):
            found = meta_gradient(
                parameters,
                partial(train.loss, cleaner, step % NUM_PASSES, train_classes),
                partial(test.loss, cleaner, step % NUM_PASSES, test_classes),
                inner_learning_rate=config.inner_learning_rate,
                source_weight=config.source_weight,
                second_order=config.second_order,
            )
            for name, value in parameters.items():
                value.grad = found.gradient[name]
            optimizer.step()
    return cleaner


def _pairs(
    draws: Iterator[_Supervised], test: _Supervised, batch_classes: int, seed: int
) -> Iterator[tuple[_Supervised, Tensor, Tensor]]:
    """B source classes with B target classes, without end."""
    test_batches: list[Tensor] = []
    for number, train in enumerate(draws):
        for classes in batches(train.piece.graphs, batch_classes, seed, "train", number):
            if not test_batches:
                test_batches = list(batches(test.piece.graphs, batch_classes, seed, "test", number))
            yield train, classes, test_batches.pop()
