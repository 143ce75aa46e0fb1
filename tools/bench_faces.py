r"""Training on noisy labels, end to end: plain, by the robust losses, and after cleaning.

    python tools/bench_faces.py --seeds 0 1 2 --json F [--noise flip=0.4]
    python tools/bench_faces.py --seeds 0 1 2 --methods          # cleaning alone
    python tools/bench_faces.py --tune

For each seed faces of 300 identities are rendered, labels are made noisy, and one recipe, the
demo's, trains from scratch. Rows:

  noisy            as given
  superloss, nal, l2b   as given, by the robust losses; L2B trusts what one round of cleaning kept
  round 1, 2, ...  on what each round of cleaning left (`facetrain run` with `rounds`)
  control          the given labels of as many images as the last round kept, at random
  true             the true labels of all images

All take the same number of steps. Verified on pairs of 400 other identities, every image in one
pair only. recovered: the part of what noise costs that comes back, by accuracy and by AUC, paired
within a seed. A seed draws faces, noise, pairs, first weights and order. `--tune` prints what
SETTINGS was read from: each robust loss under several settings, on a seed the table does not use.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from facetrain import pipeline
from facetrain.core import run_folder
from facetrain.core.artifact import read_json, write_json
from facetrain.core.config import load_config
from facetrain.core.log import configure_logging
from facetrain.core.rng import numpy_generator
from facetrain.core.run_folder import EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE, OVERLAY_FILE
from facetrain.data.overlay import LabelOverlay
from facetrain.data.synthetic import write_pairs
from facetrain.demo import DemoRecipe, noise_stage, render_stage
from facetrain.dist.mesh import Mesh
from facetrain.report.table import format_table

MESH = Mesh.single()
NUM_TEST_IDENTITIES = 400
TUNING_SEED = 5
SETTINGS: dict[str, list[str]] = {
    "superloss": ["robust.lam=10"],
    "nal": ["robust.boost=10", "robust.warmup_epochs=8"],
    "l2b": ["robust.warmup_epochs=8", "robust.every=2", "train.clip_norm=5"],
}
GRID: dict[str, list[list[str]]] = {
    "superloss": [[f"robust.lam={lam}"] for lam in (0.3, 1, 3, 10)],
    "nal": [
        [f"robust.boost={boost}", f"robust.warmup_epochs={warmup}"]
        for boost in (0.3, 1, 10)
        for warmup in (4, 8)
    ],
    "l2b": [
        [f"robust.warmup_epochs={warmup}", "robust.every=2", f"train.clip_norm={norm}"]
        for warmup in (4, 8)
        for norm in (0.8, 5)
    ],
}


class OneSeed:
    """Everything of one seed in a folder; what is finished there is used again."""

    def __init__(self, folder: Path, seed: int, given: argparse.Namespace) -> None:
        self.folder, self.seed = folder, seed
        self.data = folder / "faces"
        self.pairs = folder / "pairs" / "pairs.bin"
        self.noise = folder / "noise"
        kind, _, rate = given.noise.partition("=")
        self.overrides = [
            f"seed={seed}", f"synthetic.seed={seed}", f"noise.seed={seed}", "noise.structured=0",
            f"noise.{kind}={rate}", f"data.path={self.data}", "data.workers=0",
            f"data.overlay=[{self.noise / OVERLAY_FILE}]", f"evaluate.bins=[{self.pairs}]",
            "train.evaluate_every=1000", f"rounds={given.rounds}", *given.change,
        ]  # fmt: skip
        recipe = self.recipe()
        render_stage(recipe.synthetic, self.data, MESH)
        noise_stage(recipe.noise, self.data, self.noise, MESH)
        if not self.pairs.with_suffix(".json").is_file():
            first = recipe.synthetic.num_identities
            others = {"first_identity": first, "num_identities": NUM_TEST_IDENTITIES}
            self.pairs.parent.mkdir(exist_ok=True)
            write_pairs(self.pairs, recipe.synthetic.model_copy(update=others), given.pairs)

    def recipe(self, *more: str) -> DemoRecipe:
        """The demo's recipe on this seed's data."""
        return load_config(DemoRecipe, pipeline.RECIPES / "demo.yaml", [*self.overrides, *more])

    def clean(self) -> list[tuple[str, Path]]:
        """Train on the noisy labels, clean, train on the true ones; the folders of the rounds."""
        recipe, run = self.recipe(), self.folder / "run"
        pipeline.run(recipe, run, MESH, true_labels=pipeline.with_overlay(recipe, ()))
        folders = [run_folder.round_folder(run, number) for number in range(1, recipe.rounds)]
        return [(f"round {number + 1}", folder) for number, folder in enumerate([*folders, run])]

    def train(self, name: str, recipe: DemoRecipe) -> Mapping[str, float]:
        """Train by `recipe` into the folder `name`; its numbers."""
        trained, verified = self.folder / name / "train", self.folder / name / "evaluate"
        pipeline.train_stage(recipe, trained, MESH)
        pipeline.evaluate_stage(recipe.evaluate, trained, verified, MESH)
        return numbers(verified)

    def robust(self, method: str, settings: Sequence[str], trusted: Path) -> Mapping[str, float]:
        """Train on the noisy labels by a robust loss."""
        more = [f"robust.name={method}", *settings]
        if method == "l2b":
            more.append(f"robust.trusted={trusted}")
        return self.train("_".join([method, *settings]), self.recipe(*more))

    def control(self, cleaned: Path) -> Mapping[str, float]:
        """Train on the given labels of as many images as `cleaned` kept, other ones, as long."""
        answer, given = LabelOverlay.load(cleaned / "clean"), LabelOverlay.load(self.noise)
        order = numpy_generator(self.seed, "control").permutation(len(answer.kept))
        path = self.folder / "control" / OVERLAY_FILE
        path.parent.mkdir(exist_ok=True)
        kept = given.kept & answer.kept[order]
        dataclasses.replace(given, kept=kept, source=np.ones_like(given.source)).save(path)
        longer = read_json(cleaned / "retrain" / "manifest.json")["config"]
        recipe = self.recipe(
            f"data.overlay=[{path}]",
            f"train.epochs={longer['train']['epochs']}",
            f"train.margin_warmup_epochs={longer['train']['margin_warmup_epochs']}",
            f"schedule.warmup_epochs={longer['schedule']['warmup_epochs']}",
        )
        return self.train("control", recipe)

    def labels(self, cleaned: Path) -> dict[str, float]:
        """F1 of the noise, and the right and wrong labels that a round trains on."""
        truth = np.load(self.noise / "truth.npz")
        given, answer = LabelOverlay.load(self.noise), LabelOverlay.load(cleaned / "clean")
        dropped, noise = ~answer.kept | (answer.label != given.label), ~truth["is_clean"]
        right = answer.label == truth["true_label"]
        return {
            "f1": 2 * float((dropped & noise).sum() / (dropped.sum() + noise.sum())),
            "right": int((answer.kept & right).sum()),
            "wrong": int((answer.kept & ~right).sum()),
        }


def numbers(verified: Path) -> dict[str, float]:
    """Accuracy and AUC of a finished evaluation."""
    (found,) = read_json(verified / "verification.json").values()
    return {"accuracy": found["accuracy"], "auc": found["auc"]}


def bench(one: OneSeed, methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """Row -> its numbers, of one seed; the robust losses of `methods`."""
    rounds = one.clean()
    run = one.folder / "run"
    rows = {"noisy": numbers(run / EVALUATE)}
    for method in methods:
        rows[method] = dict(one.robust(method, SETTINGS[method], rounds[0][1] / "clean"))
    for name, folder in rounds:
        rows[name] = numbers(folder / EVALUATE_RETRAIN) | one.labels(folder)
    rows["control"] = dict(one.control(rounds[-1][1]))
    rows["true"] = numbers(run / EVALUATE_TRUE)
    for row in rows.values():
        for key in ("accuracy", "auc"):
            lost = rows["true"][key] - rows["noisy"][key]
            row[f"recovered_{key}"] = (row[key] - rows["noisy"][key]) / lost
    return rows


def tune(one: OneSeed) -> None:
    """Print each robust loss under the settings of GRID, on a seed that no table uses."""
    ((_, cleaned),) = one.clean()
    print("noisy", numbers(one.folder / "run" / EVALUATE))
    for method, grid in GRID.items():
        for settings in grid:
            print(method, *settings, one.robust(method, settings, cleaned / "clean"), flush=True)


def show(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """The table, mean and spread over seeds."""

    def cell(row: str, key: str, form: str) -> str:
        values = [run[row][key] for run in runs if key in run[row]]
        spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
        return f"{np.mean(values):{form}}{spread}" if values else ""

    columns = {"accuracy": ".4f", "auc": ".4f", "recovered_accuracy": ".2f", "recovered_auc": ".2f",
               "f1": ".3f", "right": ".0f", "wrong": ".0f"}  # fmt: skip
    rows = [[row, *(cell(row, *column) for column in columns.items())] for row in runs[0]]
    return format_table(["", *(name.replace("_", " ") for name in columns)], rows)


def main() -> None:
    """Run the seeds, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", default="structured=0.4", help="kind=share; or flip=, outlier=")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=12_000)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="change")
    parser.add_argument("--out", type=Path, help="keep everything here, and go on from it")
    parser.add_argument("--methods", nargs="*", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tune", action="store_true")
    given = parser.parse_args()
    configure_logging()
    with tempfile.TemporaryDirectory() as temporary:
        out: Path = given.out or Path(temporary)
        if given.tune:
            given.rounds = 1
            tune(OneSeed(out / "tune", TUNING_SEED, given))
            return
        runs = []
        for seed in given.seeds:
            runs.append(bench(OneSeed(out / str(seed), seed, given), given.methods))
            print(show(runs), flush=True)
    if given.json:
        write_json(given.json, {"noise": given.noise, "seeds": given.seeds, "runs": runs})


if __name__ == "__main__":
    main()
