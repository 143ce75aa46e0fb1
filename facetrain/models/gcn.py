"""The graph-convolutional cleaner: which image of an identity belongs to it.

ADC (Zhang et al., ICCV 2021), supplement section 3, Eqs. 15-16. Depth and widths are not in the
paper and are our choice.
"""

import itertools
from typing import Annotated, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from facetrain.core.config import Config

Activation = Literal["relu", "sigmoid"]


class Graph(Protocol):
    """What a layer asks of a graph over N nodes; graph/ has two that fit."""

    def aggregate(self, message: Tensor, bias: Tensor, activation: Activation) -> Tensor:
        """Row i is the sum over i's neighbours j of activation(affinity_ij * message_j + bias).

        Twice differentiable in the message and in the bias; zero for a node without neighbours.

        Args:
            message: (N, A).
            bias: (A,).
            activation: applied to each neighbour's part before the sum.
        """
        ...


class GCNConfig(Config):
    """The cleaner's layers."""

    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128, 64), min_length=1)
    """Outputs of each layer but the last, which has one."""
    inner_activation: Activation = "relu"
    """Inside the last layer's sum. Read literally, Eq. 16 has a sigmoid there, which adds half the
    number of neighbours to every sum."""
    bias: bool = False
    """Add a bias after W, which Eq. 15 does not have."""


class GCNLayer(nn.Module):
    """h_i -> [h_i || sum over N_i of activation(affinity_ij h_j A + b)] W, before the outer ReLU.

    Args:
        in_features: columns of h.
        message_features: columns of A.
        out_features: columns of W.
        activation: the one inside the sum.
        bias: add a bias after W.
    """

    def __init__(
        self,
        in_features: int,
        message_features: int,
        out_features: int,
        activation: Activation,
        bias: bool,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.message_weight = nn.Parameter(torch.empty(in_features, message_features))  # A
        self.message_bias = nn.Parameter(torch.zeros(message_features))  # b
        self.weight = nn.Parameter(torch.empty(in_features + message_features, out_features))  # W
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.xavier_uniform_(self.message_weight)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, h: Tensor, graph: Graph) -> Tensor:
        """(N, in_features) -> (N, out_features)."""
        message = h @ self.message_weight  # (N, A)
        received = graph.aggregate(message, self.message_bias, self.activation)  # (N, A)
        # Two products instead of a concatenation: the same sum without a copy of both.
        own_weight, received_weight = self.weight[: h.shape[1]], self.weight[h.shape[1] :]
        own = h @ own_weight if self.bias is None else torch.addmm(self.bias, h, own_weight)
        return torch.addmm(own, received, received_weight)  # (N, out_features)


class GCNOutput(NamedTuple):
    """What the cleaner says of each node.

    Attributes:
        logit: (N,) before the sigmoid, for a loss that needs no clamp.
        hidden: (N, F) input of the last layer.
    """

    logit: Tensor
    hidden: Tensor

    @property
    def clean_probability(self) -> Tensor:
        """(N,) in (0, 1): the sigmoid that Eq. 15 has in the last layer."""
        return torch.sigmoid(self.logit)


class GCN(nn.Module):
    """Node features (N, in_features) and a graph -> a logit per node: is the image clean?

    Initialised from torch's global random state. The message of each layer is as wide as its
    output, the last one's as wide as its input.
    """

    def __init__(self, config: GCNConfig, in_features: int) -> None:
        super().__init__()
        widths = (in_features, *config.widths)
        layers = [
            GCNLayer(rows, columns, columns, "relu", config.bias)
            for rows, columns in itertools.pairwise(widths)
        ]
        layers.append(GCNLayer(widths[-1], widths[-1], 1, config.inner_activation, config.bias))
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor, graph: Graph) -> GCNOutput:
        """(N, in_features) -> logit (N,) and hidden (N, F)."""
        *inner, last = self.layers
        hidden = features
        for layer in inner:
            hidden = torch.relu(layer(hidden, graph))  # (N, F)
        return GCNOutput(last(hidden, graph).squeeze(1), hidden)
