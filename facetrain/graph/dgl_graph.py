"""The same graph on DGL, the library of the paper's implementation."""

import os
from typing import Any

from torch import Tensor

from facetrain.core.errors import ConfigError
from facetrain.models.gcn import Activation


def import_dgl() -> Any:
    """The module `dgl` on its PyTorch backend.

    Raises:
        ConfigError: DGL is not installed or does not load here.
    """
    # Without a choice DGL makes one, prints it and writes it to the home folder.
    os.environ["DGLBACKEND"] = "pytorch"
    try:
        import dgl
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"graph backend dgl: DGL must be installed, but importing it failed ({error}); "
            "pip install '.[dgl]' in facetrain's folder (Python 3.10 or 3.11), or use the "
            "native backend"
        ) from None
    return dgl


class DGLGraph:
    """A graph in DGL, from the table that `NeighbourTable` takes; one edge per real slot.

    Args:
        neighbour: (N, K) int64 rows of the neighbours; padded slots may hold anything.
        affinity: (N, K) from `normalised_affinity`.
        mask: (N, K) bool, False where a slot is padding.

    Raises:
        ConfigError: DGL is missing, or the table is not on a CPU.
    """

    def __init__(self, neighbour: Tensor, affinity: Tensor, mask: Tensor) -> None:
        assert neighbour.shape == affinity.shape == mask.shape
        dgl = import_dgl()
        if neighbour.device.type != "cpu":
            raise ConfigError(
                f"graph backend dgl: works on the CPU only, got a table on {neighbour.device}; "
                "use the native backend"
            )
        node, _ = mask.nonzero(as_tuple=True)  # (E,)
        self._graph = dgl.graph((neighbour[mask], node), num_nodes=len(mask))
        self._graph.edata["affinity"] = affinity[mask][:, None]  # (E, 1)
        self._sum = dgl.function.sum("part", "total")

    def aggregate(self, message: Tensor, bias: Tensor, activation: Activation) -> Tensor:
        """See `facetrain.models.gcn.Graph`."""

        def part(edges: Any) -> dict[str, Tensor]:
            weighted = edges.data["affinity"] * edges.src["message"] + bias  # (E, A)
            return {"part": weighted.relu() if activation == "relu" else weighted.sigmoid()}

        if self._graph.num_edges() == 0:  # DGL would not call `part`, and have no total
            return message * 0
        with self._graph.local_scope():
            self._graph.srcdata["message"] = message
            self._graph.update_all(part, self._sum)
            total: Tensor = self._graph.dstdata["total"]
        return total
