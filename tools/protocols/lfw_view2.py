r"""LFW's official View 2, "unrestricted, label-free outside data": ten trainings on LFW alone.

Protocol: Huang and Learned-Miller, "Labeled Faces in the Wild: Updates and New Reporting
Procedures", UMass Amherst UM-CS-2014-003. For each of the ten sets a model is trained on the
images of the nine others and judges the 600 pairs of the set. No identity is on both sides.

The threshold also comes from the nine sets alone. A model separates the people it was trained on
far better than others, so their pairs would set it much too strictly. One of the nine sets is
therefore held out: a first model is trained on eight and finds the threshold on the pairs of the
ninth; then a second one is trained on all nine and judges the test pairs at that threshold
(`--threshold refit`). `--threshold held-out` judges with the first model and saves half the time.

    python -m tools.protocols.lfw_view2 --config configs/lfw_view2.yaml --images lfw \
        --people people.txt --pairs pairs.txt --landmarks landmarks.csv \
        --out runs/lfw_view2 --json lfw_view2.json

Start it again to continue: finished folds are kept, an interrupted training resumes.
"""

import argparse
import dataclasses
import hashlib
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.artifact import fingerprint, read_json, write_json
from facetrain.core.errors import DataError, UserError
from facetrain.core.log import configure_logging, logger
from facetrain.data.dataset import FaceDataset
from facetrain.data.evaluation.lfw import NUM_SETS, Face, file_name, read_pairs
from facetrain.data.evaluation.verification_bin import write_bin
from facetrain.data.overlay import LabelOverlay
from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions
from facetrain.dist.mesh import Mesh
from facetrain.evaluate.evaluate import EvaluateConfig, PairDistances, pair_distances
from facetrain.metrics.verification import best_threshold
from facetrain.models.weights import load_backbone
from facetrain.report.tables import format_table
from tools.benchmarks.common import make_parser, write_report
from tools.protocols.lfw_sets import View2, check_disjoint, read_people


def standard_error(accuracy: Sequence[float]) -> float:
    """Of the mean over folds, as LFW reports it: sample standard deviation / sqrt(folds)."""
    return float(np.std(accuracy, ddof=1) / math.sqrt(len(accuracy)))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything one fold needs.

    Attributes:
        row: face -> row of the packed data set.
        train_command: the `facetrain` command, perhaps under torchrun, before its arguments.
        overrides: `key=value` for the recipe.
    """

    view: View2
    dataset: FaceDataset
    row: dict[Face, int]
    data: Path
    config: Path
    overrides: tuple[str, ...]
    threshold: str
    train_command: tuple[str, ...]
    mesh: Mesh
    out: Path

    def rows_of(self, sets: Sequence[int]) -> list[int]:
        """Rows of everyone in these sets."""
        names = {person for k in sets for person in self.view.people[k]}
        return [row for (person, _), row in self.row.items() if person in names]

    def train(self, sets: Sequence[int], name: str) -> Path:
        """Train on the images of `sets` only; returns the folder with the backbone."""
        folder = self.out / name
        kept = np.zeros(self.dataset.num_rows, np.bool_)
        kept[self.rows_of(sets)] = True
        label = self.dataset.class_ids[self.dataset.label]
        overlay = self.out / f"{name}.npz"
        fingerprint_of_shards = self.dataset.base_fingerprint
        LabelOverlay.make(label, kept, dataset_fingerprint=fingerprint_of_shards).save(overlay)
        command = [
            *self.train_command,
            *("train", str(self.config), "--out", str(folder)),
            *(f"data.path={self.data}", f"data.overlay={overlay}", "evaluate.bins=[]"),
            *self.overrides,
        ]
        logger.info("%s", " ".join(command))
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            raise UserError(
                f"{name}: the training command must succeed, but exited {done.returncode}"
            )
        return folder

    def distances(self, backbone: Path, test_set: int) -> PairDistances:
        """Distances of the official pairs of a set."""
        pairs = self.view.pairs[test_set]
        path = self.out / f"pairs_{test_set + 1:02d}.bin"
        faces = [face for pair in pairs for face in (pair.first, pair.second)]
        encoded = [self.dataset.encoded(self.row[face]) for face in faces]
        write_bin(path, encoded, [pair.same for pair in pairs])
        model = load_backbone(backbone, self.mesh.device)
        return pair_distances(
            model, path, self.mesh, image_size=model.image_size, config=EvaluateConfig()
        )

    def fold(self, test_set: int) -> dict[str, Any]:
        """Numbers of one fold; a finished one is read back.

        Returns:
            `accuracy`, `threshold`, `num_images` and `num_identities` trained on, `inputs`.
        """
        result = self.out / f"fold_{test_set + 1:02d}.json"
        known = (self.threshold, self.overrides, fingerprint(self.config), self.dataset.fingerprint)
        inputs = hashlib.sha256(repr((test_set, *known, self.view.pairs)).encode()).hexdigest()
        if result.is_file() and (numbers := read_json(result))["inputs"] == inputs:
            return dict(numbers)
        held_out = (test_set + 1) % NUM_SETS
        nine = [k for k in range(NUM_SETS) if k != test_set]
        eight = [k for k in nine if k != held_out]
        name = f"fold_{test_set + 1:02d}"
        first = self.train(eight, f"{name}_held_out")
        held = self.distances(first, held_out)
        threshold = best_threshold(held.distance, held.same)
        trained, sets = first, eight
        if self.threshold == "refit":
            trained, sets = self.train(nine, f"{name}_refit"), nine
        test = self.distances(trained, test_set)
        numbers = {
            "accuracy": float(((test.distance < threshold) == test.same).mean()),
            "threshold": threshold,
            "num_images": len(self.rows_of(sets)),
            "num_identities": len(np.unique(self.dataset.label[self.rows_of(sets)])),
            "inputs": inputs,
        }
        write_json(result, numbers)
        return numbers


def pack_faces(
    view: View2, images: Path, landmarks: Path | None, shards: Path
) -> tuple[FaceDataset, dict[Face, int]]:
    """Pack the official images once; folds are overlays on them.

    Returns:
        The data set, and face -> row.

    Raises:
        DataError: an image of a test pair is missing, does not decode, or has no landmarks.
    """
    pack(images, shards, PackOptions(landmarks=landmarks))
    dataset = FaceDataset.open(shards)
    lines = (shards / "train.lst").read_text(encoding="utf-8").splitlines()
    files = {line.split("\t")[-1]: row for row, line in enumerate(lines)}
    assert len(files) == dataset.num_rows
    row = {face: files[name] for face in view.faces() if (name := file_name(face)) in files}
    needed = {face for pairs in view.pairs for pair in pairs for face in (pair.first, pair.second)}
    if missing := sorted(needed - row.keys()):
        raise DataError(
            f"{shards}: must hold every image of the test pairs, but {len(missing)} were not "
            f"packed, {file_name(missing[0])} first; skipped.txt there says why (an image that "
            "--landmarks lacks is skipped)"
        )
    if absent := len(view.faces()) - len(row):
        logger.warning("%d images of people.txt were not packed: see skipped.txt", absent)
    return dataset, row


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the recipe of each training")
    parser.add_argument("--images", type=Path, required=True, help="official: a folder a person")
    parser.add_argument("--people", type=Path, required=True, help="official people.txt")
    parser.add_argument("--pairs", type=Path, required=True, help="official pairs.txt")
    parser.add_argument("--landmarks", type=Path, help="CSV of five points an image, to align")
    parser.add_argument("--out", type=Path, required=True, help="receives everything")
    parser.add_argument("--folds", default="1,2,3,4,5,6,7,8,9,10", help="e.g. 1,2; default: all")
    parser.add_argument("--threshold", choices=("refit", "held-out"), default="refit")
    parser.add_argument("--processes", type=int, default=1, help="of each training, by torchrun")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for the recipe")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every fold asked for; returns `accuracy`, `standard_error` (from two folds on), `folds`."""
    folds = [int(fold) for fold in options.folds.split(",")]
    if not set(folds) <= set(range(1, NUM_SETS + 1)):
        raise UserError(f"--folds must be numbers from 1 to {NUM_SETS}, got {options.folds}")
    view = View2(read_people(options.people), read_pairs(options.pairs))
    check_disjoint(view)
    shards = options.out / "faces"
    dataset, row = pack_faces(view, options.images, options.landmarks, shards)
    command = [sys.executable, "-m", "facetrain"]
    if options.processes > 1:
        launcher = [
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={options.processes}",
        ]
        command = [sys.executable, "-m", *launcher, "-m", "facetrain"]
    experiment = Experiment(
        view=view,
        dataset=dataset,
        row=row,
        data=shards,
        config=options.config,
        overrides=tuple(options.overrides),
        threshold=options.threshold,
        train_command=tuple(command),
        mesh=Mesh.single("auto"),
        out=options.out,
    )
    results = {fold: experiment.fold(fold - 1) for fold in folds}
    accuracy = [numbers["accuracy"] for numbers in results.values()]
    return {
        "accuracy": float(np.mean(accuracy)),
        "standard_error": standard_error(accuracy) if len(accuracy) > 1 else None,
        "num_folds": len(folds),
        "folds": {str(fold): numbers for fold, numbers in results.items()},
    }


def main() -> None:
    """Parse, run, print, write."""
    options = _parse()
    configure_logging()
    try:
        numbers = run(options)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    rows = [
        [fold, str(n["num_images"]), f"{n['threshold']:.2f}", f"{n['accuracy']:.4f}"]
        for fold, n in numbers["folds"].items()
    ]
    print(format_table(["set", "images", "threshold", "accuracy"], rows))
    spread = numbers["standard_error"]
    after = "" if spread is None else f" +- {spread:.4f} (standard error)"
    print(f"\naccuracy {numbers['accuracy']:.4f}{after} over {numbers['num_folds']} of 10 sets")
    write_report(numbers, options.json, show=False)


if __name__ == "__main__":
    main()
