"""A large noisy set, end to end on one device: its exact kNN graph, then its cleaning.

    python -m tools.benchmarks.scale --rows 5000000 --dim 512 --json scale.json

Embeddings are synthetic identities (synthetic_embedding.py) in float16, under planted noise.
The graph is compared with the time of its matrix products alone (roofline: the rate of a large
float16 product, measured here) and with the usual way, a product and `torch.topk` of each tile.
Cleaning is the stage itself on that graph, with a small source of other identities whose noise is
known or (`--self-source`) with none; how well it finds the noise only shows that it works, for
these identities are easy.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.clean.clean import CleanConfig, clean
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.labelled_set import LabelledSet
from facetrain.core.rng import numpy_generator
from facetrain.data.noise.plant import NoiseConfig, plant
from facetrain.dist.mesh import Mesh
from facetrain.graph.knn import KnnConfig, KnnGraph, knn_graph
from facetrain.graph.knn_rows import UnitRows
from facetrain.metrics.noise import noise_detection
from tools.benchmarks.common import clock, machine, make_parser, memory_mib, write_report
from tools.benchmarks.synthetic_embedding import write_embedding

_SPECTRUM = 0.3
_SOURCE_ROWS = 20_000
_CHECKED = 64
_TILE = 8192, 1 << 16


def product_rate(size: int, device: torch.device) -> float:
    """FLOP/s of float16 (float32 on a CPU) products (8192, size) x (size, 65536)."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    x, y = (torch.randn(rows, size, device=device).to(dtype) for rows in _TILE)
    buffer = torch.empty(_TILE, device=device, dtype=dtype)
    seconds = []
    for _ in range(20 if device.type == "cuda" else 3):
        start = clock(device)
        torch.mm(x, y.T, out=buffer)
        seconds.append(clock(device) - start)
    return 2 * _TILE[0] * _TILE[1] * size / statistics.median(seconds[1:])


def usual_seconds(embedding: NDArray[Any], num_neighbours: int, device: torch.device) -> float:
    """What all queries would take by product and top-k of each tile, from one block of them."""
    rows = UnitRows(embedding, device)
    base = next(iter(rows.blocks()))[1]
    assert len(base) == len(rows), "the usual way keeps all rows on the device"
    queries = base[: _TILE[0]]
    seconds = []
    for _ in range(2):
        start, values, indices = clock(device), [], []
        for first in range(0, len(base), _TILE[1]):
            tile = queries @ base[first : first + _TILE[1]].T
            found = tile.topk(min(num_neighbours + 1, tile.shape[1]), dim=1)
            values.append(found.values)
            indices.append(found.indices + first)
        best = torch.cat(values, 1).topk(num_neighbours + 1, dim=1).indices
        torch.cat(indices, 1).gather(1, best)
        seconds.append(clock(device) - start)
    return min(seconds) * len(base) / len(queries)


def recall_of_a_few(embedding: NDArray[Any], found: NDArray[Any], device: torch.device) -> float:
    """Share of the neighbours of 64 rows that a search in float64 finds as well."""
    query = np.sort(numpy_generator(0, "check").choice(len(embedding), _CHECKED, replace=False))

    def unit(rows: NDArray[Any]) -> torch.Tensor:
        wide = torch.from_numpy(np.array(rows)).to(device, torch.float64)
        return torch.nn.functional.normalize(wide, dim=1)

    queries, step = unit(embedding[query]), 1 << 17
    parts = [
        queries @ unit(embedding[start : start + step]).T
        for start in range(0, len(embedding), step)
    ]
    similarity = torch.cat(parts, dim=1)
    similarity[torch.arange(_CHECKED), torch.from_numpy(query)] = -torch.inf
    exact = similarity.topk(found.shape[1]).indices.cpu().numpy()
    pairs = zip(exact.tolist(), found[query].tolist(), strict=True)
    return sum(len(set(a) & set(b)) for a, b in pairs) / exact.size


def build_graph(
    embedding: NDArray[Any], folder: Path, options: argparse.Namespace, mesh: Mesh
) -> dict[str, Any]:
    """The exact graph by torch, its numbers and what they are compared with."""
    num_rows, size = embedding.shape
    rate = product_rate(size, mesh.device)
    start = clock(mesh.device)
    config = KnnConfig(num_neighbours=options.neighbours, index="exact", backend="torch")
    searched = embedding
    if options.graph_dim:
        searched = np.ascontiguousarray(embedding[:, : options.graph_dim])
    graph, report = knn_graph(searched, config, mesh, folder)
    if options.skip_checks:
        return report
    report["total_seconds"] = time.perf_counter() - start  # reading and checking the rows too
    report["product_tflops"] = rate / 1e12
    report["roofline_seconds"] = 2 * num_rows**2 * size / rate
    report["of_roofline"] = report["seconds"] / report["roofline_seconds"]
    report["usual_seconds"] = usual_seconds(embedding, options.neighbours, mesh.device)
    report["checked_recall"] = recall_of_a_few(embedding, graph.neighbours, mesh.device)
    return report


def embedded(embedding: NDArray[Any], graph: Path, config: CleanConfig, mesh: Mesh) -> EmbeddedSet:
    """The set with its graph in `graph`."""
    return EmbeddedSet(embedding, KnnGraph.open(graph), config.graph.num_context, mesh.device)


def known_source(folder: Path, size: int, config: CleanConfig, mesh: Mesh) -> LabelledSet:
    """Other identities whose labels are known."""
    path, graph = folder / "source.npy", folder / "source_graph"
    label = write_embedding(path, _SOURCE_ROWS, size, "float16", _SPECTRUM, mesh.device, seed=1)
    embedding = np.load(path, mmap_mode="r")
    knn_graph(embedding, KnnConfig(num_neighbours=config.graph.num_context), mesh, graph)
    return LabelledSet(embedded(embedding, graph, config, mesh), label, config.graph)


def clean_set(
    embedding: NDArray[Any], truth: NDArray[np.int64], folder: Path, mesh: Mesh, *, own: bool
) -> dict[str, Any]:
    """Clean the labels `truth` under planted noise; seconds, nodes a second, how well."""
    config = CleanConfig()
    noisy = plant(truth, NoiseConfig(flip=0.15, structured=0.15))
    source = None if own else known_source(folder, embedding.shape[1], config, mesh)
    out_dir = folder / ("own" if own else "known")
    out_dir.mkdir()
    if mesh.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = clock(mesh.device)
    target = embedded(embedding, folder / "graph", config, mesh)
    labelled = LabelledSet(target, noisy.label, config.graph)
    cleaned = clean(config, labelled, source, out_dir, mesh, "bench")
    seconds = clock(mesh.device) - start
    found = noise_detection(cleaned.clean_probability, cleaned.kept, noisy.is_clean).numbers()
    report = {
        "num_images": len(truth),
        "num_classes": len(np.unique(noisy.label)),
        "seconds": seconds,
        "images_per_second": len(truth) / seconds,
        "peak_resident_gib": memory_mib() / 1024,
        **found,
    }
    if mesh.device.type == "cuda":
        report["peak_device_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return report


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--neighbours", type=int, default=80)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--graph-dim", type=int, help="graph of the first dimensions: sooner")
    parser.add_argument("--skip-checks", action="store_true", help="no roofline, no usual way")
    parser.add_argument("--wait-for", type=Path, help="clean when this file is there")
    parser.add_argument("--self-source", action="store_true", help="clean without a source")
    parser.add_argument("--folder", type=Path, help="for large files; the system's by default")
    options = parser.parse_args()
    mesh = Mesh.single(options.device)
    report: dict[str, Any] = {"machine": machine(mesh.device), "self_source": options.self_source}

    def note(name: str, numbers: dict[str, Any]) -> None:
        report[name] = numbers
        print(name, *(f"{key}={value}" for key, value in numbers.items()), sep="\n  ", flush=True)
        write_report(report, options.json, show=False)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        path = folder / "embedding.npy"
        truth = write_embedding(path, options.rows, options.dim, "float16", _SPECTRUM, mesh.device)
        embedding = np.load(path, mmap_mode="r")
        note("graph", build_graph(embedding, folder / "graph", options, mesh))
        while options.wait_for and not options.wait_for.exists():
            time.sleep(0.2)
        note("clean", clean_set(embedding, truth, folder, mesh, own=options.self_source))


if __name__ == "__main__":
    main()
