"""kNN graph: against faiss and scikit-learn, and IVF at a million rows.

    python -m tools.benchmarks.knn --sizes 50000x128,20000x512 --threads 1 --json knn.json
    python -m tools.benchmarks.knn --ivf 1000000 --dim 128 --json ivf.json

The embeddings are synthetic identities (synthetic_embedding.py). scale.py has a GPU.

Every graph of ours starts at an `.npy` file and ends in two, checks and normalisation included; the
peers get float32 unit rows in memory. Compared are medians of alternating repeats; `cpu_seconds` is
processor time of the process, which a busy machine disturbs less.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from facetrain.dist.mesh import Mesh
from facetrain.graph.knn import KnnConfig, knn_graph
from tools.benchmarks.common import (
    machine,
    make_parser,
    medians,
    memory_mib,
    ratios,
    take_turns,
    write_report,
)
from tools.benchmarks.synthetic_embedding import write_embedding


class PeakMemory:
    """Peak resident memory of this process, and the part of it that is not mapped files."""

    def __enter__(self) -> "PeakMemory":
        self.anonymous_gib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.anonymous_gib = max(self.anonymous_gib, memory_mib("RssAnon") / 1024)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.resident_gib = memory_mib() / 1024


def _graph(path: Path, out_dir: Path, mesh: Mesh, **keys: Any) -> dict[str, Any]:
    """Our graph of the `.npy` at `path`; its numbers."""
    embedding = np.load(path, mmap_mode="r")
    return knn_graph(embedding, KnnConfig(**keys), mesh, out_dir)[1]


def compare(num_rows: int, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of every way on the same rows, ways taking turns."""
    num_neighbours, mesh = options.neighbours, Mesh.single()
    chosen: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path, out_dir = Path(folder, "embedding.npy"), Path(folder, "graph")
        write_embedding(path, num_rows, size, "float32", options.spectrum, mesh.device)
        rows: NDArray[np.float32] = np.load(path)

        def flat() -> None:
            index = faiss.IndexFlatIP(size)
            index.add(rows)
            index.search(rows, num_neighbours + 1)

        def brute() -> None:
            model = NearestNeighbors(n_neighbors=num_neighbours, algorithm="brute", metric="cosine")
            model.fit(rows).kneighbors()

        def ours(index: str, backend: str) -> Callable[[], None]:
            def build() -> None:
                keys = {"index": index, "backend": backend, "num_neighbours": num_neighbours}
                chosen.append(_graph(path, out_dir, mesh, **keys)["backend"])

            return build

        ways = {
            "ours": ours("exact", "auto"),
            "ours faiss": ours("exact", "faiss"),
            "ours torch": ours("exact", "torch"),
            "faiss flat": flat,
            "scikit-learn": brute,
        }
        wall, processor = take_turns(ways, options.repeats)
    report = {
        "seconds": medians(wall),
        "seconds_of_faiss_flat": medians(ratios(wall, "faiss flat")),
        "cpu_seconds": medians(processor),
        "cpu_seconds_of_faiss_flat": medians(ratios(processor, "faiss flat")),
    }
    print(f"\n{num_rows} x {size}, K {num_neighbours}: " + ", ".join(report))
    for name in ways:
        print(f"  {name:13s}" + "".join(f"{column[name]:8.2f}" for column in report.values()))
    return report | {"auto_took": chosen[::3]}


def build_large(num_rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One graph by IVF (or what --index says), with the memory it took."""
    mesh = Mesh.single(options.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "embedding.npy")
        size, dtype, images = options.dim, options.dtype, options.images
        write_embedding(path, num_rows, size, dtype, options.spectrum, mesh.device, images=images)
        keys = {"index": options.index, "num_neighbours": options.neighbours}
        start = time.perf_counter()
        with PeakMemory() as memory:
            report = _graph(path, Path(folder, "graph"), mesh, **keys)
        report["total_seconds"] = time.perf_counter() - start
    report["peak_resident_gib"] = memory.resident_gib
    report["peak_anonymous_gib"] = memory.anonymous_gib
    return report


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default="50000x128,20000x512", help="ROWSxDIM, comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--neighbours", type=int, default=80)
    parser.add_argument("--spectrum", type=float, default=0.3, help="0: the uniform sphere")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ivf", type=int, metavar="ROWS", help="build one graph of so many rows")
    parser.add_argument("--index", choices=("auto", "exact", "ivf"), default="ivf")
    parser.add_argument("--dim", type=int, default=128, help="of --ivf")
    parser.add_argument("--images", type=int, default=20, help="of an identity, of --ivf")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, help="for large files; the system's by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    report: dict[str, Any] = {
        "machine": machine(options.device) | {"faiss": faiss.__version__},
        "num_neighbours": options.neighbours,
        "spectrum": options.spectrum,
        "images": options.images,
    }
    if options.ivf:
        report["ivf"] = build_large(options.ivf, options)
    else:
        for text in options.sizes.split(","):
            num_rows, size = (int(part) for part in text.split("x"))
            report[text] = compare(num_rows, size, options)
    write_report(report, options.json)


if __name__ == "__main__":
    main()
