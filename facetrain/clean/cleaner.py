"""The cleaner: node features, standardised, through the GCN, twice.

The second pass sees every class through the first one's answer: each image counts as much as it
is believed, so the class centre is no longer pulled by the noise (the paper passes once).
"""

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


def believed(owner: LabelledSet, row: Tensor, clean_probability: Tensor) -> Tensor:
    """Weight of each image, (num_images,), for the next pass: its clean probability where known.

    Never quite 0 or 1, so that no pass can rule an image out for good.
    """
    weight = owner.certain()
    weight[row] = clean_probability.clamp(_CERTAIN, 1 - _CERTAIN)
    return weight


@torch.no_grad()
def one_pass(cleaner: Cleaner, piece: Piece, weight: Tensor) -> Tensor:
    """Clean probability of the nodes of `piece`, (N,), under these weights (num_images,)."""
    output: GCNOutput = cleaner(piece.features(weight), piece.graph()[0])
    return output.clean_probability


def next_weight(cleaner: Cleaner, piece: Piece, weight: Tensor) -> Tensor:
    """The weight that one pass over `piece` gives, (num_images,); 1 outside of it."""
    return believed(piece.owner, piece.graphs.row, one_pass(cleaner, piece, weight))


@torch.no_grad()
def clean_probability(
    cleaner: Cleaner, labelled: LabelledSet, mesh: Mesh, num_passes: int = NUM_PASSES
) -> list[Tensor]:
    """How likely each image belongs to its class, (num_images,) after each pass.

    Each rank judges some of the classes; every rank gets all answers. An absent image's is 1.
    """
    weight, answers = labelled.certain(), []
    cut = labelled.cut(_NODES_AT_ONCE)
    for number in range(num_passes):
        answer = torch.zeros_like(weight)
        own = cut[mesh.rank :: mesh.world_size]
        label = f"clean, pass {number + 1}"
        shown = mesh.is_main and len(own) > 1
        for classes in progress(own, label, total=len(own), unit="piece", enabled=shown):
            piece = labelled.piece(classes)
            answer[piece.graphs.row] = one_pass(cleaner, piece, weight)
        answer = all_reduce_sum(answer, mesh)
        answer = answer.where(labelled.label_of_row >= 0, 1.0)
        answers.append(answer)
        present = torch.nonzero(labelled.label_of_row >= 0)[:, 0]
        weight = believed(labelled, present, answer[present])
    return answers
