"""Training the cleaner: on planted noise, then on the target it is for.

ADC (Zhang et al., ICCV 2021), supplement Algorithm and Eqs. 1-5: pre-training on source classes
with known noise, then rounds in which pseudo-labels of the target are made and the cleaner takes
meta-updates, source classes as meta-train and target classes as meta-test.
"""

import copy
import itertools
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from facetrain.clean.cleaner import NUM_PASSES, Cleaner, passes
from facetrain.clean.labelled_set import LabelledSet, Piece
from facetrain.clean.meta_update import Parameters, meta_gradient
from facetrain.core.config import Config
from facetrain.core.progress import progress
from facetrain.core.rng import derive_seed, numpy_generator
from facetrain.graph.class_graphs import ClassGraphs

_DRAWN_IMAGES = 4096
"""In a draw of noise: more are in the next one."""
_TARGET_IMAGES = 1 << 15


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
        if 0 <= low <= high <= 1:
            return bounds
        raise ValueError(f"must be two probabilities, the lower first, got {low:g} and {high:g}")


def noisy_piece(noisy: LabelledSet, seed: int, *parts: int | str) -> Piece:
    """What is learned of a draw of noise: random large classes (any, where none is large)."""
    classes = noisy.large if len(noisy.large) else None
    return noisy.piece(noisy.some(classes, _DRAWN_IMAGES, seed, "piece", *parts))


def batches(graphs: ClassGraphs, size: int, seed: int, *parts: int | str) -> tuple[Tensor, ...]:
    """Random batches of the classes."""
    order = numpy_generator(seed, "batches", *parts).permutation(graphs.num_classes)
    classes = torch.from_numpy(order).to(graphs.start.device)
    return torch.split(classes, size)


def pretrain(config: PretrainConfig, source: LabelledSet, seed: int, *, show: bool) -> Cleaner:
    """A cleaner trained by binary cross-entropy on fresh noise in the source."""

    def drawn(draw: int) -> Piece:
        return noisy_piece(source.with_noise(seed, "pretrain", draw), seed, draw)

    first = drawn(0)
    torch.manual_seed(derive_seed(seed, "cleaner"))
    cleaner = Cleaner(source.config.gcn, first.features(first.owner.ones()))
    cleaner = cleaner.to(source.embedded.device)
    rate, decay = config.learning_rate, config.weight_decay
    optimizer = torch.optim.Adam(cleaner.parameters(), rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_draws)
    for draw in progress(range(config.num_draws), "clean: learn", unit="draw", enabled=show):
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


def _pseudo_labelled(
    cleaner: Cleaner, target: LabelledSet, ambiguous: tuple[float, float], seed: int
) -> _Supervised:
    """The target with the cleaner's own output as labels, the ambiguous ones left out."""
    piece = target.piece(target.some(target.large, _TARGET_IMAGES, seed, "piece"))
    features = list(passes(cleaner, piece))
    probability = cleaner.probability(piece, features[-1])
    low, high = ambiguous
    sure = (probability <= low) | (probability >= high)
    return _Supervised(piece, features, (probability > 0.5).float(), sure.float())


def adapt(
    config: MetaConfig,
    cleaner: Cleaner,
    source: LabelledSet,
    target: LabelledSet,
    seed: int,
    *,
    batch_classes: int,
    show: bool,
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
        test = _pseudo_labelled(cleaner, target, ambiguous, part)
        pairs = _pairs(cleaner, source, test, batch_classes, part)
        label = f"clean: meta-supervision, round {round_number + 1}"
        steps = progress(range(config.num_steps), label, unit="step", enabled=show)
        for step, (train, train_classes, test_classes) in zip(steps, pairs, strict=False):
            gradient = meta_gradient(
                parameters,
                partial(train.loss, cleaner, step % NUM_PASSES, train_classes),
                partial(test.loss, cleaner, step % NUM_PASSES, test_classes),
                inner_learning_rate=config.inner_learning_rate,
                source_weight=config.source_weight,
                second_order=config.second_order,
            )
            for name, value in parameters.items():
                value.grad = gradient[name]
            optimizer.step()
    return cleaner


def _pairs(
    cleaner: Cleaner, source: LabelledSet, test: _Supervised, batch_classes: int, seed: int
) -> Iterator[tuple[_Supervised, Tensor, Tensor]]:
    """B classes of the source, under noise planted anew, with B target classes, without end."""
    test_batches: list[Tensor] = []
    for draw in itertools.count():
        piece = noisy_piece(source.with_noise(seed, draw), seed, draw)
        truth = piece.truth().float()
        train = _Supervised(piece, list(passes(cleaner, piece)), truth, torch.ones_like(truth))
        for classes in batches(train.piece.graphs, batch_classes, seed, "train", draw):
            if not test_batches:
                test_batches = list(batches(test.piece.graphs, batch_classes, seed, "test", draw))
            yield train, classes, test_batches.pop()
