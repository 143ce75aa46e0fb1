r"""MvCoM against plain fine-tuning and class margins alone, on long-tailed faces.

    python -m tools.benchmarks.mvcom.run --seeds 5 --json F [--out FOLDER]
    python -m tools.benchmarks.mvcom.run --data LFW_FOLDER --seeds 5 --json F   # real faces

For each seed: faces whose poses, occluders, blurs and groups have long tails are rendered, one
network is trained on them, and from it each method is fine-tuned for the same steps on the same
batches. The test set has other people and every level equally often; all its pairs are scored.

  cosface        the training goes on as it was
  class_margin   a margin for each class, n^(-1/4) (`ldam`)
  mvcom          a learned margin for each sample, as `facetrain finetune` does by default; the
                 paper's signs and a class-aware prior:
                 --set "finetune.residual.forget=[]" finetune.prior=ldam
  variation      a fixed margin for each image by the rarity of its levels, nothing learned
  variation_levels   that, and a learned number for each level of each factor
  variation_shuffled   its control, where --methods asks for it: the same margins, handed to other
                 images of the batch
  shuffled       the control, where --methods asks for it: mvcom's residuals, handed to other
                 images of the batch

  tail_tar       TAR at FAR 1e-3 over the pairs with an image of a tail level (under 10 % of the
                 training images), threshold from these pairs' own impostors; mean over tail levels
  overall_tar    TAR at FAR 1e-3 over all pairs

`--set KEY=VALUE` changes the fine-tuning (`--set finetune.residual.size=0.2`).
"""

import copy
import itertools
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from facetrain.core.artifact import write_json
from facetrain.core.config import parse_config
from facetrain.core.log import configure_logging
from facetrain.core.rng import torch_generator
from facetrain.data.dataset import FaceDataset
from facetrain.data.sample_history import read_samples
from facetrain.data.variation.labels import VARIATION_FILE, load_variations
from facetrain.dist.mesh import Mesh
from facetrain.engine.method import StepBatch
from facetrain.finetune import finetune
from facetrain.finetune.mvcom import Mvcom, PriorMargin
from facetrain.finetune.settings import FinetuneStageConfig
from facetrain.pretrain import train
from facetrain.pretrain.train import TrainConfig
from facetrain.report.tables import format_table
from tools.benchmarks.common import ROOT, command_of, make_parser, mean_and_spread
from tools.benchmarks.mvcom.cost import VARIANTS
from tools.benchmarks.mvcom.score import margin_rank_test, paired_line, score_test_set
from tools.benchmarks.mvcom.sets import level_shares, lfw_sets, synthetic_sets, tail_levels

MESH = Mesh.single()
SECTIONS: dict[str, dict[str, Any]] = {
    "cosface": {"method": "cosface"},
    "class_margin": {"method": "class_margin", "prior": "ldam"},
    "mvcom": {"method": "mvcom"},
    "variation": {"method": "class_margin", "prior": "variation"},
    "variation_levels": {"method": "mvcom", "prior": "variation", "residual": {"of": "level"}},
    "shuffled": {"method": "mvcom"},
    "variation_shuffled": {"method": "class_margin", "prior": "variation"},
}
CONTROLS = ("shuffled", "variation_shuffled")
METHODS = tuple(name for name in SECTIONS if name not in CONTROLS)
SIZES = (200, 80, 110)  # identities that are trained on, learned from, and tested on
IMAGE_SIZE = 48
COMMON: dict[str, Any] = {
    "model": {
        "name": "small", "image_size": IMAGE_SIZE, "embedding_size": 128, "width": 32,
        "dropout": 0.1,
    },
    "head": {"margin": "cosface", "scale": 24, "cosine_margin": 0.2},
    "augment": {"flip_probability": 0.5, "scale": [0.9, 1.1], "translate": 0.04, "brightness": 0.2},
}  # fmt: skip
LOOP: dict[str, Any] = {"batch_size": 96, "precision": "bfloat16", "channels_last": True}
PRETRAIN: dict[str, Any] = {
    "optimizer": {"learning_rate": 0.05},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "train": {**LOOP, "epochs": 10, "margin_warmup_epochs": 3},
}
FINETUNE: dict[str, Any] = {
    "optimizer": {"learning_rate": 0.01},
    "schedule": {"name": "multistep", "milestones": [2, 3], "gamma": 0.1},
    "train": {**LOOP, "epochs": 4},
}


class Shuffled(Mvcom):
    """The control: the learned residuals, handed to other images of the batch."""

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """Learn as ever, then shuffle."""
        super().begin_step(step, batch)
        order = torch.randperm(len(self.residual), generator=torch_generator(step, "control"))
        self.margin = (self._prior() + self.residual[order]).clamp(0.0, self.max_margin)
        self.residual = self.margin - self._prior()


class ShuffledPrior(PriorMargin):
    """The control: fixed margins, handed to other images of the batch."""

    def begin_step(self, step: int, batch: StepBatch) -> None:
        """Look up the margins, then shuffle."""
        super().begin_step(step, batch)
        order = torch.randperm(len(self.margin), generator=torch_generator(step, "control"))
        self.margin = self.margin[order]


def _set(data: dict[str, Any], override: str) -> None:
    key, _, text = override.partition("=")
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
    data[last] = yaml.safe_load(text)


def learns(method: str) -> bool:
    """Whether it has a meta set."""
    return bool(SECTIONS[method]["method"] == "mvcom")


def pretrain(data: Path, seed: int, out_dir: Path) -> Path:
    """The checkpoint that every method of this seed starts from."""
    recipe = {"seed": seed, "data": {"path": str(data), "workers": 0}, **COMMON, **PRETRAIN}
    config = parse_config(TrainConfig, recipe, "pretrain")
    train.run(config, FaceDataset.open(data), out_dir, MESH)
    return out_dir


def tune(
    method: str, sets: Sequence[Path], seed: int, start: Path, out_dir: Path, change: Sequence[str]
) -> Path:
    """Fine-tune by one method."""
    section = copy.deepcopy(SECTIONS[method])
    if learns(method):
        section["meta"] = {"path": str(sets[1]), "workers": 0}
    recipe = copy.deepcopy({**COMMON, **FINETUNE})
    recipe |= {"seed": seed, "data": {"path": str(sets[0]), "workers": 0}, "finetune": section}
    for one in change:
        if not (method == "cosface" and one.startswith("finetune.")) and not (
            not learns(method) and one.startswith(("finetune.residual", "finetune.meta"))
        ):
            _set(recipe, one)
    config = parse_config(FinetuneStageConfig, recipe, method)
    controls: dict[str, tuple[str, type[PriorMargin]]] = {
        "shuffled": ("Mvcom", Shuffled),
        "variation_shuffled": ("PriorMargin", ShuffledPrior),
    }
    name, kind = controls.get(method, ("Mvcom", Mvcom))
    with mock.patch.object(finetune, name, kind):
        finetune.run(config, FaceDataset.open(sets[0]), start, out_dir, MESH)
    return out_dir


def learned_margins(tuned: Path, data: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Factor -> mean residual and share of each level of the training images."""
    residual = np.nanmean(read_samples(tuned)["residual"].values, axis=0)  # (N,)
    dataset = FaceDataset.open(data)
    variations = load_variations(data / VARIATION_FILE, dataset.num_rows).take(dataset.row)
    found = {}
    for factor, level in variations.level.items():
        share = level_shares(variations, factor)
        means = [
            np.nanmean(residual[level == one]) if (level == one).any() else np.nan
            for one in range(len(share))
        ]
        found[factor] = {"residual": np.array(means), "share": share}
    return found


def one_seed(
    seed: int, folder: Path, methods: Sequence[str], change: Sequence[str], data: Path | None
) -> dict[str, Any]:
    """Every number of one seed."""
    sets = (
        lfw_sets(data, folder / "sets", seed)
        if data
        else synthetic_sets(folder / "sets", seed, SIZES)
    )
    start = pretrain(sets[0], seed, folder / "pretrained")
    tails = tail_levels(sets[0])
    numbers: dict[str, Any] = {"pretrained": score_test_set(start, sets[2], tails)}
    for method in methods:
        name = method + "".join(f",{one}" for one in change) if learns(method) else method
        tuned = tune(method, sets, seed, start, folder / name.replace("/", "_"), change)
        numbers[method] = score_test_set(tuned, sets[2], tails)
        tail, overall = (numbers[method][key] for key in ("tail_tar", "overall_tar"))
        print(f"seed {seed}  {name}  tail {tail:.4f}  overall {overall:.4f}", flush=True)
        if method == "mvcom":
            numbers["margins"] = learned_margins(tuned, sets[0])
    return numbers


def costs() -> dict[str, dict[str, float]]:
    """Seconds and megabytes of a step of each variant, each measured in a process of its own."""
    found = {}
    for variant in VARIANTS:
        command = command_of("tools.benchmarks.mvcom.cost")
        done = subprocess.run(
            [*command, "--variant", variant], cwd=ROOT, check=True, capture_output=True, text=True
        )
        found[variant] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run the seeds, print the table, write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="keep sets and models here, and reuse them")
    parser.add_argument("--data", type=Path, help="folder of train.rec with real faces")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=[*METHODS, *CONTROLS])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="change")
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, help="pixels; 48")
    parser.add_argument("--no-cost", action="store_true", help="do not time single steps")
    arguments = parser.parse_args()
    configure_logging()
    COMMON["model"]["image_size"] = arguments.image_size
    with tempfile.TemporaryDirectory() as temporary:
        out: Path = arguments.out or Path(temporary)
        runs = [
            one_seed(seed, out / str(seed), arguments.methods, arguments.change, arguments.data)
            for seed in range(arguments.seeds)
        ]
    numbers: dict[str, Any] = {
        method: {key: [run[method][key] for run in runs] for key in ("tail_tar", "overall_tar")}
        | {"levels": [run[method]["levels"] for run in runs]}
        for method in ("pretrained", *arguments.methods)
    }
    rows = [
        [method, *(mean_and_spread(numbers[method][key]) for key in ("tail_tar", "overall_tar"))]
        for method in numbers
    ]
    print(format_table(["method", "tail TAR", "overall TAR"], rows))
    for one, other in itertools.combinations(arguments.methods, 2):
        for key in ("tail_tar", "overall_tar"):
            print(paired_line(f"{other} - {one}, {key}", numbers[other][key], numbers[one][key]))
    if "mvcom" in arguments.methods:
        numbers["margin_and_rarity"] = margin_rank_test([run["margins"] for run in runs])
        print(numbers["margin_and_rarity"]["text"])
    if arguments.json:
        write_json(arguments.json, numbers)
    if not arguments.no_cost:
        numbers["cost"] = costs()
        plain = numbers["cost"]["plain"]
        rows = [
            [
                name,
                f"{one['seconds'] * 1e3:.0f} ms ({one['seconds'] / plain['seconds']:.2f}x)",
                f"{one['megabytes']:.0f} MB ({one['megabytes'] / plain['megabytes']:.2f}x)",
            ]
            for name, one in numbers["cost"].items()
        ]
        print(format_table(["step", "processor time", "memory"], rows))
        if arguments.json:
            write_json(arguments.json, numbers)


if __name__ == "__main__":
    main()
