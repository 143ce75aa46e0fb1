r"""Time and memory of IJB-C's 1:1 and 1:N scoring at full size, on synthetic embeddings.

    python -m tools.benchmarks.ijb --out /tmp/ijb --json ijb.json

Writes, once, the lists of a benchmark of IJB-C's size in its own text formats (23,124 templates
of one face, 3,531 of them in two galleries; 15,658,489 pairs, 19,557 of one person) with random
embeddings of 512 numbers, in a process of its own; then reads and scores them as
`facetrain evaluate --ijb` does, and says of each step how long it took, how much processor time
that was, and how much memory the process has needed at most so far. Under torchrun every rank
takes its share.
"""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import atomic_path
from facetrain.core.log import configure_logging
from facetrain.core.rng import numpy_generator
from facetrain.data.evaluation.ijb_metadata import IjbMetadata
from facetrain.dist.mesh import Mesh
from facetrain.evaluate.ijb_embedding import feature_chunks, pool_templates
from facetrain.evaluate.ijb_scores import identify_templates, one_to_one, score_pairs
from facetrain.evaluate.numbers import confidence_intervals
from facetrain.metrics.template_pooling import pair_similarity
from facetrain.report.tables import format_table
from tools.benchmarks.common import make_parser, memory_mib, seconds_of, write_report

GALLERY, PROBES, D = 3_531, 19_593, 512
NUM_PAIRS, NUM_GENUINE = 15_658_489, 19_557
FIRST_GALLERY = 1_772
ResultT = TypeVar("ResultT")


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def _write_pairs(path: Path, subject: NDArray[np.int64], generator: np.random.Generator) -> None:
    """Every mate of the first probes, and impostor cells without repetition, in cell order."""
    mates = np.arange(NUM_GENUINE) + subject[:NUM_GENUINE] * PROBES
    chosen = np.zeros(GALLERY * PROBES, np.bool_)
    chosen[mates] = True
    own = subject * PROBES + np.arange(PROBES)  # never an impostor pair
    while (missing := NUM_PAIRS - int(chosen.sum())) > 0:
        drawn = np.unique(generator.integers(0, len(chosen), missing))
        chosen[drawn[~np.isin(drawn, own)]] = True
    cells = np.flatnonzero(chosen)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for part in np.array_split(cells, 200):
            gallery, probe = np.divmod(part, PROBES)
            columns = (gallery, GALLERY + probe, (subject[probe] == gallery).astype(int))
            rows = zip(*(column.tolist() for column in columns), strict=True)
            file.writelines(f"{a} {b} {same}\n" for a, b, same in rows)


def prepare(out: Path, seed: int) -> None:
    """Write OUT/IJBC/meta and OUT/features.npy; template i has one face and the number i."""
    meta = out / "IJBC" / "meta"
    generator = numpy_generator(seed, "bench ijb")
    subject = generator.integers(0, GALLERY, PROBES)
    centre = generator.standard_normal((GALLERY, D), np.float32)
    noise = generator.standard_normal((PROBES, D), np.float32)
    np.save(out / "features.npy", np.concatenate([centre, 0.5 * centre[subject] + noise]))
    names = [f"{i}.jpg" for i in range(GALLERY + PROBES)]
    marks = "38.2946 51.6963 73.5318 51.5014 56.0252 71.7366 41.5493 92.3655 70.7299"
    _write_lines(
        meta / "ijbc_face_tid_mid.txt", [f"{name} {i} {i}" for i, name in enumerate(names)]
    )
    _write_lines(
        meta / "ijbc_name_5pts_score.txt", [f"{name} {marks} 92.2041 0.99" for name in names]
    )
    header, gallery = "TEMPLATE_ID,SUBJECT_ID", [f"{i},{i}" for i in range(GALLERY)]
    _write_lines(meta / "ijbc_1N_gallery_G1.csv", [header, *gallery[:FIRST_GALLERY]])
    _write_lines(meta / "ijbc_1N_gallery_G2.csv", [header, *gallery[FIRST_GALLERY:]])
    probes = [f"{GALLERY + i},{owner}" for i, owner in enumerate(subject.tolist())]
    _write_lines(meta / "ijbc_1N_probe_mixed.csv", [header, *probes])
    _write_pairs(meta / "ijbc_template_pair_label.txt", subject, generator)


class Steps:
    """Seconds and processor seconds of each step, and the process's peak memory after it."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}

    def time(self, name: str, function: Callable[[], ResultT]) -> ResultT:
        """Run `function` as the step `name`."""
        result: list[ResultT] = []
        wall, processor = seconds_of(lambda: result.append(function()))
        peak = memory_mib() / 1024
        self.rows[name] = {"seconds": wall, "processor_seconds": processor, "peak_gib": peak}
        return result[0]


def run(out: Path, bootstrap: int, mesh: Mesh) -> dict[str, Any]:
    """Every step of the protocol, timed; see the module."""
    steps = Steps()
    baseline = memory_mib() / 1024
    faces = steps.time("read faces", lambda: IjbMetadata.open(out, "ijbc"))
    features = np.load(out / "features.npy", mmap_mode="r")
    unit_template = steps.time(
        "pool templates",
        lambda: pool_templates(
            feature_chunks(features, mesh), faces, D, mesh, norm_weighting=True, detector_score=True
        ),
    )
    pairs = steps.time("parse and score pairs", lambda: score_pairs(unit_template, faces, mesh))
    first, second = pairs.template
    steps.time("  of it: score", lambda: pair_similarity(unit_template, first, second))
    numbers = steps.time("ROC, TAR at FAR, EER, AUC", lambda: one_to_one(pairs))
    steps.time("1:N, two galleries", lambda: identify_templates(unit_template, faces, mesh))
    if bootstrap:
        identity = faces.subjects_of(pairs.template)
        steps.time(
            f"{bootstrap} draws over identities",
            lambda: confidence_intervals(-pairs.similarity, pairs.same, None, bootstrap, identity),
        )
    return {
        "num_pairs": len(pairs.same),
        "num_templates": faces.num_templates,
        "world_size": mesh.world_size,
        "imports_gib": baseline,
        "steps": steps.rows,
        "tar_at_far": numbers["tar_at_far"],
    }


def main() -> None:
    """Parse, write the lists where there are none, run, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="receives 300 MB of lists")
    parser.add_argument("--bootstrap", type=int, default=20, help="draws; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    mesh = Mesh.from_env()
    configure_logging(is_main=mesh.is_main)
    done = options.out / "done"
    if mesh.is_main and not done.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        writer = multiprocessing.get_context("spawn").Process(
            target=prepare, args=(options.out, options.seed)
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit(writer.exitcode)
        done.touch()
    mesh.barrier()
    numbers = run(options.out, options.bootstrap, mesh)
    if mesh.is_main:
        rows = [
            [name, *(f"{value:.2f}" for value in step.values())]
            for name, step in numbers["steps"].items()
        ]
        print(format_table(["step", "seconds", "processor s", "peak GiB"], rows))
        write_report(numbers, options.json, show=False)
    mesh.close()


if __name__ == "__main__":
    main()
