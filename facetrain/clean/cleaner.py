"""The cleaner: node features, standardised, through the GCN, twice.

In the second pass an image counts as much as the first found it clean, so that noise no longer
pulls the class centre (the paper passes once).
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
        spread = features.std(0)
        self.mean = nn.Buffer(features.mean(0))
        self.spread = nn.Buffer(spread.where(spread > 1e-3, 1.0))  # constant columns

    def forward(self, features: Tensor, graph: Graph) -> GCNOutput:
        """Logit (N,) and hidden (N, F')."""
        output: GCNOutput = self.gcn((features - self.mean) / self.spread, graph)
        return output

    @torch.no_grad()
    def probability(self, piece: Piece, features: Tensor) -> Tensor:
        """Clean probability of the nodes of `piece`, (N,)."""
        return self(features, piece.graph()[0]).clean_probability  # type: ignore[no-any-return]


def pass_weight(owner: LabelledSet, row: Tensor, clean_probability: Tensor) -> Tensor:
    """Weight of each image, (num_images,), in the next pass: its clean probability where known.

    Never quite 0 or 1, so that no pass can rule an image out for good.
    """
    return owner.ones().index_copy_(0, row, clean_probability.clamp(_CERTAIN, 1 - _CERTAIN))


def passes(cleaner: Cleaner, piece: Piece) -> Iterator[Tensor]:
    """Features (N, F) of each pass over `piece`, those of a later one by the output of the former.

    The cleaner is asked when the next pass is, so as it has become by then.
    """
    yield (features := piece.features(piece.owner.ones()))
    for _ in range(NUM_PASSES - 1):
        probability = cleaner.probability(piece, features)
        features = piece.features(pass_weight(piece.owner, piece.graphs.row, probability))
        yield features


@torch.no_grad()
def clean_probability(cleaner: Cleaner, labelled: LabelledSet, mesh: Mesh) -> Tensor:
    """How likely each image belongs to its class, (num_images,); 1 outside of large classes.

    Each rank judges some of the classes; every rank gets all of it.
    """
    row = labelled.classes.subset(labelled.large).row.to(labelled.embedded.device)
    own = labelled.cut(_NODES_AT_ONCE)[mesh.rank :: mesh.world_size]
    shown = mesh.is_main and len(own) > 1
    probability = weight = labelled.ones()
    for number in range(NUM_PASSES):
        found = torch.zeros_like(weight)
        label = f"clean, pass {number + 1}"
        for classes in progress(own, label, unit="piece", enabled=shown):
            piece = labelled.piece(classes)
            found[piece.graphs.row] = cleaner.probability(piece, piece.features(weight))
        probability = labelled.ones().index_copy_(0, row, all_reduce_sum(found, mesh)[row])
        weight = pass_weight(labelled, row, probability[row])
    return probability
