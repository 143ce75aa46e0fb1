"""The native graph: up to K neighbours a node, in plain torch, on any device."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from facetrain.models.gcn import Activation

# Values of one chunk's (n, K, A) tensor. On a CPU 1 MiB, so that the passes over it meet it in
# the cache: 22 ms instead of 520 for 20,000 nodes, K 20, A 128 (one core of a Zen 5); half or
# twice as much costs 5 % more. A GPU wants few launches, and 512 MiB bounds its memory.
_CHUNK_VALUES = {"cpu": 2**18, "cuda": 2**27}


class _Chunk(NamedTuple):
    """Nodes [start, stop) of the table's own order, with k slots each."""

    rows: slice
    neighbour: Tensor  # (n * k,)
    affinity: Tensor  # (n, k, 1)
    real: Tensor | None  # (n, k, 1) 1 or 0; None where no slot is padding

    def weighted(self, message: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
        """affinity_ij * message_j + bias, (n, k, A), in the first rows of `out` if given."""
        if out is not None:
            out = out[: len(self.neighbour)]
        gathered = torch.index_select(message, 0, self.neighbour, out=out)  # (n * k, A)
        gathered = gathered.view(*self.affinity.shape[:2], -1)  # (n, k, A)
        return torch.addcmul(bias, self.affinity, gathered, out=None if out is None else gathered)


class NeighbourTable:
    """A graph as a table of neighbours; many class graphs may lie in it one after another.

    Args:
        neighbour: (N, K) int64 rows of the neighbours; padded slots may hold anything.
        affinity: (N, K) from `normalised_affinity`; a constant, no gradient reaches it.
        mask: (N, K) bool, False where a slot is padding. Padding contributes nothing.
    """

    def __init__(self, neighbour: Tensor, affinity: Tensor, mask: Tensor) -> None:
        assert neighbour.shape == affinity.shape == mask.shape
        num_nodes, num_slots = mask.shape
        if num_slots > 1 and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            slot = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            neighbour, affinity = neighbour.gather(1, slot), affinity.gather(1, slot)
        count = mask.sum(dim=1)  # (N,)
        # Nodes of like degree stand together, so that a chunk has next to no padding. Stable:
        # a class graph's nodes stay neighbours in memory.
        count, order = count.sort(descending=True, stable=True)
        self._order: Tensor | None = None
        if not torch.equal(order, torch.arange(num_nodes, device=order.device)):
            self._order, self._position = order, order.argsort()
            neighbour, affinity = neighbour[order], affinity[order]
        self._count = count
        self._degree = count.cpu()  # chunks are cut on the host
        slots = torch.arange(num_slots, device=count.device)
        self._neighbour = neighbour.masked_fill(slots >= count[:, None], 0)
        self._affinity = affinity.masked_fill(slots >= count[:, None], 0)

    def aggregate(self, message: Tensor, bias: Tensor, activation: Activation) -> Tensor:
        """See `facetrain.models.gcn.Graph`.

        With ReLU, memory beyond the result is one chunk, in every order of differentiation; with
        a sigmoid, autograd keeps the (N, K, A) tensor. A gradient is not bitwise repeatable on a
        GPU, which adds in any order.
        """
        if activation == "relu":
            total: Tensor = _GatedSum.apply(message, bias, None, None, self)
            return total
        parts = []
        # Each chunk of a recorded pass would bring a gradient as large as the whole message.
        for chunk in self.chunks(message, whole=torch.is_grad_enabled()):
            value = torch.sigmoid(chunk.weighted(message, bias))  # (n, k, A)
            parts.append((value if chunk.real is None else value * chunk.real).sum(dim=1))
        rest = message.new_zeros(len(message) - sum(map(len, parts)), message.shape[1])
        return self.in_node_order(torch.cat([*parts, rest]))

    def chunks(self, message: Tensor, *, whole: bool = False) -> Iterator[_Chunk]:
        """The nodes that have neighbours, those with most first; all in one chunk if `whole`."""
        num_values = _chunk_values(message)
        start, num_nodes = 0, len(self._degree)
        while start < num_nodes and (k := int(self._degree[start])) > 0:
            num_rows = num_nodes if whole else max(1, num_values // (k * message.shape[1]))
            stop = min(num_nodes, start + num_rows)
            rows = slice(start, stop)
            real = None
            if int(self._degree[stop - 1]) < k:
                slots = torch.arange(k, device=message.device)
                real = (slots < self._count[rows, None]).to(message.dtype)[:, :, None]
            affinity = self._affinity[rows, :k, None].to(message.dtype)
            yield _Chunk(rows, self._neighbour[rows, :k].reshape(-1), affinity, real)
            start = stop

    def chunk_buffer(self, message: Tensor) -> Tensor:
        """Rows (., A) for any one chunk: a new allocation each may be a page fault per 4 KiB."""
        k = int(self._degree[0]) if len(self._degree) else 0
        rows = min(len(message) * k, max(k, _chunk_values(message) // message.shape[1]))
        return message.new_empty(rows, message.shape[1])

    def in_table_order(self, value: Tensor) -> Tensor:
        """(N, A) by node -> by place in the table."""
        return value if self._order is None else value.index_select(0, self._order)

    def in_node_order(self, value: Tensor) -> Tensor:
        """(N, A) by place in the table -> by node."""
        return value if self._order is None else value.index_select(0, self._position)


class _GatedSum(Function):
    """Sum of affinity_ij * message_j + bias over the edges whose gate is open.

    An edge's gate is open, for each of the A columns, where its gate_affinity_ij *
    gate_message_j + gate_bias > 0: by message and bias themselves where no other gate is given,
    and then this is the sum of ReLUs. Gates do not move under a small change, so the sum is
    linear in (message, bias), its derivative is the transposed sum, and that one's derivative
    this sum again: exact to any order. The (N, K, A) values are never kept but computed anew,
    a chunk in the cache at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        message: Tensor,
        bias: Tensor,
        gate_message: Tensor | None,
        gate_bias: Tensor | None,
        table: NeighbourTable,
    ) -> Tensor:
        """(N, A)."""
        ctx.table = table
        total = torch.zeros_like(message)  # (N, A)
        if gate_message is None or gate_bias is None:
            ctx.save_for_backward(message, bias)
        else:
            ctx.save_for_backward(gate_message, gate_bias)
        buffer, gate_buffer = table.chunk_buffer(message), None
        for chunk in table.chunks(message):
            value = chunk.weighted(message, bias, buffer)  # (n, k, A)
            if gate_message is None or gate_bias is None:
                value.relu_()
            else:
                gate_buffer = torch.empty_like(buffer) if gate_buffer is None else gate_buffer
                gate = chunk.weighted(gate_message, gate_bias, gate_buffer)
                value = _where_open(value, gate)
            if chunk.real is not None:
                value.mul_(chunk.real)
            torch.sum(value, dim=1, out=total[chunk.rows])
        return table.in_node_order(total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of message and bias."""
        gate_message, gate_bias = ctx.saved_tensors
        inputs = gradient, gate_message.detach(), gate_bias.detach(), ctx.table
        return *_TransposedGatedSum.apply(*inputs), None, None, None


class _TransposedGatedSum(Function):
    """Takes a value at each node to the messages and the bias that the gates let it reach."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gate_message: Tensor, gate_bias: Tensor, table: NeighbourTable
    ) -> tuple[Tensor, Tensor]:
        """To (N, A) and (A,)."""
        ctx.save_for_backward(gate_message, gate_bias)
        ctx.table = table
        to_message, to_bias = torch.zeros_like(gate_message), torch.zeros_like(gate_bias)
        value = table.in_table_order(value)[:, None]  # (N, 1, A)
        buffer = table.chunk_buffer(gate_message)
        for chunk in table.chunks(gate_message):
            gate = chunk.weighted(gate_message, gate_bias, buffer)  # (n, k, A)
            edge = _where_open(value[chunk.rows].expand_as(gate), gate)  # (n, k, A)
            if chunk.real is not None:
                edge.mul_(chunk.real)
            to_bias += edge.sum(dim=(0, 1))
            to_message.index_add_(0, chunk.neighbour, edge.mul_(chunk.affinity).flatten(0, 1))
        return to_message, to_bias

    @staticmethod
    def backward(ctx: Any, to_message: Tensor, to_bias: Tensor) -> tuple[Tensor, None, None, None]:
        """Of the value."""
        inputs = to_message, to_bias, *ctx.saved_tensors, ctx.table
        return _GatedSum.apply(*inputs), None, None, None


def _where_open(value: Tensor, gate: Tensor) -> Tensor:
    """Value where gate > 0, else 0, in place of the gate.

    ReLU's own backward: 8 times faster than value * (gate > 0).
    """
    kept: Tensor = torch.ops.aten.threshold_backward.grad_input(value, gate, 0, grad_input=gate)
    return kept


def _chunk_values(message: Tensor) -> int:
    return _CHUNK_VALUES.get(message.device.type, _CHUNK_VALUES["cuda"])
