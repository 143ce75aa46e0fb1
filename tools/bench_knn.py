"""kNN graph: against faiss and scikit-learn, IVF at a million rows, CUDA against its roofline.

    python tools/bench_knn.py --sizes 50000x128,20000x512 --threads 1 --json knn.json
    python tools/bench_knn.py --ivf 1000000 --dim 128 --json ivf.json
    python tools/bench_knn.py --device cuda --roofline --rows 5000000 --dim 512 --json roofline.json

The embeddings are synthetic identities: centres with a power-law spectrum and about 20 images of
each around them, shuffled. `--spectrum 0.3` gives centres of 128 dimensions the effective dimension
(83) that those of a small face network have on LFW; 0 is the uniform sphere, the hardest case.

Every graph of ours starts at an `.npy` file and ends in two, checks and normalisation included; the
peers get float32 unit rows in memory. Compared are medians of alternating repeats; `cpu_seconds` is
processor time of the process, which a busy machine disturbs less.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from process_memory import memory_mib
from sklearn.neighbors import NearestNeighbors

from facetrain.core.artifact import write_json
from facetrain.core.rng import numpy_generator, torch_generator
from facetrain.dist.mesh import Mesh
from facetrain.graph.knn import KnnConfig, knn_graph

IMAGES_PER_IDENTITY = 20
WITHIN = 0.6
"""Length of an image's offset from its centre: two images of an identity have cosine 0.73."""
GIB = 2.0**30


def write_embedding(
    path: Path, num_rows: int, size: int, dtype: str, spectrum: float, device: torch.device
) -> None:
    """Write unit rows (num_rows, size), a part at a time."""
    generator = torch_generator(0, "bench knn", device=device)
    num_identities = max(1, num_rows // IMAGES_PER_IDENTITY)
    deviation = torch.arange(1, size + 1, device=device) ** (-spectrum / 2)
    deviation /= deviation.norm()
    centre = torch.randn(num_identities, size, generator=generator, device=device)
    centre = F.normalize(centre * deviation, dim=1)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(num_rows, size))
    step = 1 << 17
    for start in range(0, num_rows, step):
        count = min(step, num_rows - start)
        identity = torch.randint(num_identities, (count,), generator=generator, device=device)
        offset = torch.randn(count, size, generator=generator, device=device) * deviation
        rows = F.normalize(centre[identity] + WITHIN * offset, dim=1)
        out[start : start + count] = rows.cpu().numpy()
    out.flush()


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
        wall: dict[str, list[float]] = {name: [] for name in ways}
        processor: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                start, processor_start = time.perf_counter(), time.process_time()
                way()
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - processor_start)
    report = {
        "seconds": _medians(wall),
        "seconds_of_faiss_flat": _ratios(wall),
        "cpu_seconds": _medians(processor),
        "cpu_seconds_of_faiss_flat": _ratios(processor),
    }
    print(f"\n{num_rows} x {size}, K {num_neighbours}: " + ", ".join(report))
    for name in ways:
        print(f"  {name:13s}" + "".join(f"{column[name]:8.2f}" for column in report.values()))
    return report | {"auto_took": chosen[::3]}


def _medians(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in values.items()}


def _ratios(values: dict[str, list[float]]) -> dict[str, float]:
    """Medians of the ratios within a round: a machine that slows down slows the whole round."""
    peer = values["faiss flat"]
    return {
        name: statistics.median(ours / flat for ours, flat in zip(each, peer, strict=True))
        for name, each in values.items()
    }


def build_large(num_rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One graph by IVF (or what --index says), with the memory it took."""
    mesh = Mesh.single(options.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "embedding.npy")
        size, dtype = options.dim, options.dtype
        write_embedding(path, num_rows, size, dtype, options.spectrum, mesh.device)
        start = time.perf_counter()
        with PeakMemory() as memory:
            report = _graph(
                path,
                Path(folder, "graph"),
                mesh,
                index=options.index,
                num_neighbours=options.neighbours,
            )
        report["total_seconds"] = time.perf_counter() - start
    report["peak_resident_gib"] = memory.resident_gib
    report["peak_anonymous_gib"] = memory.anonymous_gib
    print(json.dumps(report, indent=2))
    return report


def product_rate(rows: int, base: int, size: int, out: torch.dtype) -> float:
    """Products of float16 (rows, size) x (size, base) a second, in FLOP/s, on this CUDA device."""
    x = torch.randn(rows, size, device="cuda", dtype=torch.float16)
    y = torch.randn(base, size, device="cuda", dtype=torch.float16)
    buffer = torch.empty(rows, base, device="cuda", dtype=out)
    seconds = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        if out == torch.float16:
            torch.mm(x, y.T, out=buffer)
        else:
            torch.mm(x, y.T, out_dtype=out, out=buffer)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * rows * base * size / statistics.median(seconds[5:])


def roofline(options: argparse.Namespace) -> dict[str, Any]:
    """Exact search by torch on a CUDA device over the time of its matrix products alone.

    The roofline is the better of two large float16 products, one that is written as float16 and one
    as float32, which is what exact search needs.
    """
    mesh = Mesh.single("cuda")
    num_rows, size = options.rows, options.dim
    rates = {
        "float16": product_rate(8192, 1 << 16, size, torch.float16),
        "float32": product_rate(8192, 1 << 16, size, torch.float32),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "embedding.npy")
        write_embedding(path, num_rows, size, "float16", options.spectrum, mesh.device)
        keys = {"index": "exact", "backend": "torch", "num_neighbours": options.neighbours}
        report = _graph(path, Path(folder, "graph"), mesh, **keys)
        found = np.load(Path(folder, "graph", "neighbours.npy"), mmap_mode="r")
        report["checked_recall"] = _check(np.load(path, mmap_mode="r"), found)
    report["product_tflops"] = {name: rate / 1e12 for name, rate in rates.items()}
    report["roofline_seconds"] = 2 * num_rows**2 * size / max(rates.values())
    report["of_roofline"] = report["seconds"] / report["roofline_seconds"]
    print(json.dumps(report, indent=2))
    return report


def _check(embedding: NDArray[Any], found: NDArray[Any]) -> float:
    """Share of the neighbours of 64 rows that a search in float64 finds as well."""
    query = np.sort(numpy_generator(0, "check").choice(len(embedding), 64, replace=False))
    num_neighbours = found.shape[1]
    unit = F.normalize(torch.from_numpy(embedding[query]).double(), dim=1)
    parts = []
    step = 1 << 17
    for start in range(0, len(embedding), step):
        rows = torch.from_numpy(np.array(embedding[start : start + step])).double()
        parts.append((unit @ F.normalize(rows, dim=1).T).float())
    similarity = torch.cat(parts, dim=1)
    similarity[torch.arange(64), torch.from_numpy(query)] = -torch.inf
    exact = similarity.topk(num_neighbours).indices.numpy()
    right = [
        len(set(a) & set(b)) for a, b in zip(exact.tolist(), found[query].tolist(), strict=True)
    ]
    return sum(right) / exact.size


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--sizes", default="50000x128,20000x512", help="ROWSxDIM, comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--neighbours", type=int, default=80)
    parser.add_argument("--spectrum", type=float, default=0.3, help="0: the uniform sphere")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ivf", type=int, metavar="ROWS", help="build one graph of so many rows")
    parser.add_argument("--index", choices=("auto", "exact", "ivf"), default="ivf")
    parser.add_argument("--dim", type=int, default=128, help="of --ivf and --roofline")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--roofline", action="store_true", help="exact search on a CUDA device")
    parser.add_argument("--rows", type=int, default=5_000_000, help="of --roofline")
    parser.add_argument("--folder", type=Path, help="for large files; the system's by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    report: dict[str, Any] = {
        "machine": {
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "processor": platform.processor() or platform.machine(),
            "threads": options.threads,
            "torch": torch.__version__,
            "faiss": faiss.__version__,
        },
        "num_neighbours": options.neighbours,
        "spectrum": options.spectrum,
    }
    if options.roofline:
        report["roofline"] = roofline(options)
    elif options.ivf:
        report["ivf"] = build_large(options.ivf, options)
    else:
        for text in options.sizes.split(","):
            num_rows, size = (int(part) for part in text.split("x"))
            report[text] = compare(num_rows, size, options)
    if options.json is not None:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
