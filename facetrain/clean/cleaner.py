"""The cleaner: node features, standardised, through the GCN, twice.

The second pass sees every class through the first one's answer: each image counts as much as it
is pass_weight, so the class centre is no longer pulled by the noise (the paper passes once).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from facetrain.clean.labelled_set import LabelledSet, Piece
from facetrain.core.progress import progress
from facetrain.dist.collectives import all_reduce_sum
from facetrain.dist.mesh import Mesh
from facetrain.models.gcn import GCN, GCNConfig, GCNOutput, Graph

NUM_PASSES = 2
_CERTAIN = 0.0025
_NODES_AT_ONCE = 1 << 17


class Cleaner(nn.Module):
    """Node features (N, F) and a class graph -> is the image clean?

    Args:
        config: the GCN's.
        features: (N, F) of source images, whose mean and spread standardise all that come: fixed
            numbers, since those of a batch would leak its noise rate into every class.
    """

    def __init__(self, config: GCNConfig, features: Tensor) -> None:
        super().__init__()
        self.gcn = GCN(config, features.shape[1])
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", features.mean(0))
        spread = features.std(0)
        self.register_buffer("spread", spread.where(spread > 1e-3, 1.0))  # belief: none yet

    def forward(self, features: Tensor, graph: Graph) -> GCNOutput:
        """Logit (N,) and hidden (N, F')."""
        output: GCNOutput = self.gcn((features - self.mean) / self.spread, graph)
        return output


def pass_weight(owner: LabelledSet, row: Tensor, clean_probability: Tensor) -> Tensor:
    """Weight of each image, (num_images,), for the next pass: its clean probability where known.

    Never quite 0 or 1, so that no pass can rule an image out for good.
    """
    weight = owner.certain()
    weight[row] = clean_probability.clamp(_CERTAIN, 1 - _CERTAIN)
    return weight


@torch.no_grad()
def probability_on(cleaner: Cleaner, piece: Piece, features: Tensor) -> Tensor:
    """Clean probability of the nodes of `piece`, (N,)."""
    output: GCNOutput = cleaner(features, piece.graph()[0])
    return output.clean_probability


def passes(cleaner: Cleaner, piece: Piece) -> Iterator[Tensor]:
    """Features (N, F) of each pass over `piece`, a later one's by the answer to the one before.

    The cleaner answers when the next is asked for, so as it has become by then.
    """
    features = piece.features(piece.owner.certain())
    yield features
    for _ in range(NUM_PASSES - 1):
        answer = probability_on(cleaner, piece, features)
        features = piece.features(pass_weight(piece.owner, piece.graphs.row, answer))
        yield features


@torch.no_grad()
def clean_probability(cleaner: Cleaner, labelled: LabelledSet, mesh: Mesh) -> list[Tensor]:
    """How likely each image belongs to its class, (num_images,) after each pass.

    Each rank judges some of the large classes; every rank gets all answers. 1 for other images.
    """
    graphs = labelled.classes.subset(labelled.large)
    row = graphs.row.to(labelled.embedded.device)
    weight, answers = labelled.certain(), []
    own = labelled.cut(_NODES_AT_ONCE)[mesh.rank :: mesh.world_size]
    for number in range(NUM_PASSES):
        answer = torch.zeros_like(weight)
        label = f"clean, pass {number + 1}"
        shown = mesh.is_main and len(own) > 1
        for classes in progress(own, label, total=len(own), unit="piece", enabled=shown):
            piece = labelled.piece(classes)
            answer[piece.graphs.row] = probability_on(cleaner, piece, piece.features(weight))
        answer = all_reduce_sum(answer, mesh)[row]
        weight = pass_weight(labelled, row, answer)
        answers.append(labelled.certain().index_copy_(0, row, answer))
    return answers
