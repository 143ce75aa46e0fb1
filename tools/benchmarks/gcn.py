"""Nodes per second of the cleaner's network on the native graph and on DGL.

    python -m tools.benchmarks.gcn --json gcn.json

Both backends run the same layers with the same parameters over the same random class graphs;
only the sum over neighbours differs. They take turns within one process and the medians are
compared. Building the graph is not counted, for either.

  inference  forward without gradients; a call takes all of --nodes
  training   forward, binary cross-entropy, backward, of --batch-classes class graphs
  meta       the second-order meta-gradient, of as many source and as many target class graphs

`cpu_seconds` is processor time of the process, which a busy machine disturbs less.
"""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from facetrain.clean.meta_update import Parameters, meta_gradient
from facetrain.core.rng import torch_generator
from facetrain.graph.affinity import normalised_affinity
from facetrain.graph.dgl_graph import DGLGraph, import_dgl
from facetrain.graph.neighbour_table import NeighbourTable
from facetrain.models.gcn import GCN, GCNConfig, Graph
from tools.benchmarks.common import machine, make_parser, medians, take_turns, write_report

NETWORKS = {
    "64-128-64-1": (64, GCNConfig(widths=(128, 64))),
    "128-128-128-1": (128, GCNConfig(widths=(128, 128))),
}
_PASSES = ("inference", "training", "meta")


def class_sizes(num_nodes: int) -> list[int]:
    """Sizes as in a web-collected set: half of the classes under 40, a tail to some hundred."""
    draw = torch.randn(num_nodes, generator=torch_generator(0, "sizes"))
    sizes: list[int] = []
    for size in (40 * (0.7 * draw).exp()).clamp(2, 500).long().tolist():
        sizes.append(min(size, num_nodes - sum(sizes)))
        if sum(sizes) == num_nodes:
            break
    return sizes


def tables(sizes: list[int], num_neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """neighbour, affinity, mask (N, K): for each node random others of its class."""
    generator = torch_generator(0, "graph")
    neighbour = torch.full((sum(sizes), num_neighbours), -1)
    start = 0
    for size in sizes:
        key = torch.rand(size, size, generator=generator).fill_diagonal_(2.0)
        chosen = key.argsort(dim=1)[:, : min(size - 1, num_neighbours)]
        neighbour[start : start + size, : chosen.shape[1]] = start + chosen
        start += size
    mask = neighbour >= 0
    similarity = torch.rand(neighbour.shape, generator=generator)
    return neighbour, normalised_affinity(similarity, mask), mask


class Batch:
    """The same class graphs for every backend, with features and labels."""

    def __init__(self, sizes: list[int], options: argparse.Namespace, in_features: int) -> None:
        parts = tables(sizes, options.neighbours)
        device = torch.device(options.device)
        self.num_nodes, self.num_edges = sum(sizes), int(parts[2].sum())
        self.graphs: dict[str, Graph] = {
            "native": NeighbourTable(*(part.to(device) for part in parts))
        }
        if device.type == "cpu":
            self.graphs["dgl"] = DGLGraph(*parts)
        generator = torch_generator(0, "features")
        self.features = torch.randn(self.num_nodes, in_features, generator=generator).to(device)
        self.is_clean = (torch.rand(self.num_nodes, generator=generator) < 0.7).float().to(device)


def passes(gcn: GCN, batches: dict[str, Batch], backend: str) -> dict[str, Callable[[], Tensor]]:
    """What is timed, each returning a tensor that the backends must agree on."""

    def loss_on(name: str) -> Callable[[Parameters], Tensor]:
        batch = batches[name]

        def loss(parameters: Parameters) -> Tensor:
            inputs = batch.features, batch.graphs[backend]
            logit = torch.func.functional_call(gcn, parameters, inputs).logit
            return F.binary_cross_entropy_with_logits(logit, batch.is_clean)

        return loss

    def inference() -> Tensor:
        with torch.no_grad():
            logit: Tensor = gcn(batches["all"].features, batches["all"].graphs[backend]).logit
        return logit

    def training() -> Tensor:
        parameters: Parameters = dict(gcn.named_parameters())
        gradient = torch.autograd.grad(loss_on("source")(parameters), list(parameters.values()))
        return torch.cat([part.flatten() for part in gradient])

    def meta() -> Tensor:
        gradient = meta_gradient(
            dict(gcn.named_parameters()),
            loss_on("source"),
            loss_on("target"),
            inner_learning_rate=0.01,
            source_weight=0.5,
            second_order=True,
        )
        return torch.cat([part.flatten() for part in gradient.values()])

    return {"inference": inference, "training": training, "meta": meta}


def measure(options: argparse.Namespace, network: str) -> dict[str, Any]:
    """Median seconds of every pass, backends in turn."""
    in_features, config = NETWORKS[network]
    torch.manual_seed(0)
    gcn = GCN(config, in_features).to(options.device)
    sizes = class_sizes(options.nodes)
    two = sizes[: options.batch_classes], sizes[options.batch_classes : 2 * options.batch_classes]
    batches = {
        "all": Batch(sizes, options, in_features),
        "source": Batch(two[0], options, in_features),
        "target": Batch(two[1], options, in_features),
    }
    nodes = {
        "inference": batches["all"].num_nodes,
        "training": batches["source"].num_nodes,
        "meta": batches["source"].num_nodes + batches["target"].num_nodes,
    }
    backends = list(batches["all"].graphs)
    result: dict[str, Any] = {
        "edges_per_node": batches["all"].num_edges / options.nodes,
        "classes": len(sizes),
    }
    for name in _PASSES:
        runs = {backend: passes(gcn, batches, backend)[name] for backend in backends}
        first = {backend: run() for backend, run in runs.items()}  # also the warm-up
        difference = max(float((first[b] - first["native"]).abs().max()) for b in backends)
        median, cpu_median = map(medians, take_turns(runs, options.repeats, options.device))
        result[name] = {
            "nodes": nodes[name],
            "seconds": median,
            "cpu_seconds": cpu_median,
            "nodes_per_second": {b: nodes[name] / value for b, value in median.items()},
            "nodes_per_cpu_second": {b: nodes[name] / value for b, value in cpu_median.items()},
            "relative_difference": difference / float(first["native"].abs().max()),
        }
        if "dgl" in median:
            result[name]["native_over_dgl"] = median["dgl"] / median["native"]
            result[name]["native_over_dgl_cpu"] = cpu_median["dgl"] / cpu_median["native"]
        print(network, name, json.dumps(result[name]), flush=True)
    return result


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--nodes", type=int, default=20_000, help="of the inference pass")
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--batch-classes", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on_cuda = options.device == "cuda"  # DGL 1.1.3 has no wheel for a GPU
    report: dict[str, Any] = {
        "machine": machine(options.device) | {"dgl": None if on_cuda else import_dgl().__version__},
        "neighbours": options.neighbours,
        "networks": {network: measure(options, network) for network in NETWORKS},
    }
    write_report(report, options.json, show=False)


if __name__ == "__main__":
    main()
