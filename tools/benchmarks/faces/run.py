r"""Training on noisy labels, end to end: rival heads and losses, and cleaning, in one table.

    python -m tools.benchmarks.faces.run --out runs/faces --json F --markdown F
    python -m tools.benchmarks.faces.run --out runs/faces --jobs 14 --device cuda --json F
    python -m tools.benchmarks.faces.run --quick --out /tmp/faces

For each seed faces of 300 identities are rendered and labels are made noisy; the demo's recipe,
with gradients clipped alike, trains from scratch. Rows:

  plain                       as given
  inter-class filter          negatives above a cosine of 0.4 do not count
  sub-centres                 three centres a class
  sub-centres, drop           and again, one centre, without what lies beyond 75 degrees
  superloss, ...              lambda constant (the paper's) or in units of the mean loss
  superloss, nal: dominant    three centres, samples judged by the dominant one after the warm-up
  nal, nal with targets       the gate; with estimated labels
  l2b                         two clean images of each identity are trusted, and not trained on
  clean, n rounds             on what each round of cleaning left
  posterior alone, ...        the same without the GCN, `clean.gcn=false`
  clean + ...                 on what the last round left, by another head, loss or drop
  control                     the given labels of as many images as the last round kept, at random
  clean without wrong ones    what the last round left, without its wrong labels
  true labels of as many      of as many images as those, at random
  true labels                 of all images
  n trainings: ...            each goes on from the one before it; `clean` with n - 1 rounds, `drop`
                              sub-centres and what they leave; compared among themselves
  2.5 trainings: clean        twice as many rounds, each a quarter as long

All others take the same number of steps. Verified on pairs of 400 other identities, every image in
one pair only, the same for all seeds. recovered: the part of what noise costs that comes back,
paired within a seed. seconds: what the row's own stages took, evaluation left out (with several
jobs: under their contention). A seed draws faces, noise, first weights and order. `--tune` trains
by GRID on a seed that no table uses. Finished stages in `--out` are used again; numbers are written
as they come, beside those that the JSON has of other rows and seeds.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facetrain import pipeline
from facetrain.core import run_folder
from facetrain.core.artifact import read_json, write_json
from facetrain.core.config import load_config
from facetrain.core.log import configure_logging
from facetrain.core.rng import numpy_generator
from facetrain.core.run_folder import EVALUATE, EVALUATE_RETRAIN, OVERLAY_FILE
from facetrain.data.overlay import LabelOverlay
from facetrain.data.synthetic import write_pairs
from facetrain.demo import DemoRecipe, noise_stage, render_stage
from facetrain.dist.distributed_checkpoint import load_state
from facetrain.dist.mesh import Mesh
from facetrain.dist.sharded_rows import ShardedRows
from facetrain.engine.checkpoint import Checkpoints
from facetrain.heads.sub_centres import drop_beyond
from facetrain.metrics.noise import noise_detection
from facetrain.recipe import RECIPES
from tools.benchmarks.faces.finished import numbers, seconds
from tools.benchmarks.faces.rows import BEGIN_WITH, CENTRES, COMBINED, DROP, GRID, QUICK, ROWS
from tools.benchmarks.faces.table import Numbers, Rows, table, with_recovered

TUNING_SEED, PAIRS_SEED = 5, 1000
TRUSTED = 2


@dataclasses.dataclass(frozen=True)
class Setting:
    """One seed under one noise: its files, and its rows."""

    folder: Path
    seed: int
    noise: str
    rounds: int
    device: str
    change: tuple[str, ...]
    quick: bool

    @property
    def _data(self) -> Path:
        return self.folder / str(self.seed) / "faces"

    @property
    def _pairs(self) -> Path:
        return self.folder / "pairs" / "pairs.bin"

    @property
    def own(self) -> Path:
        """The folder of this noise."""
        return self.folder / str(self.seed) / self.noise.replace("=", "_")

    @property
    def _noise(self) -> Path:
        return self.own / "noise"

    @property
    def _trusted(self) -> Path:
        return self.own / "trusted.npz"

    def recipe(self, *more: str) -> DemoRecipe:
        """The demo's recipe on this seed's data."""
        kind, _, rate = self.noise.partition("=")
        overrides = [
            f"seed={self.seed}", f"synthetic.seed={self.seed}", f"noise.seed={self.seed}",
            "noise.structured=0", f"noise.{kind}={rate}", f"data.path={self._data}",
            "data.workers=0", "embed.workers=0", "evaluate.workers=0",
            f"data.overlay=[{self._noise / OVERLAY_FILE}]", f"evaluate.bins=[{self._pairs}]",
            "train.evaluate_every=1000", "train.clip_norm=5", f"rounds={self.rounds}",
        ]  # fmt: skip
        if self.quick:
            overrides += QUICK
        path = RECIPES / "demo.yaml"
        return load_config(DemoRecipe, path, [*overrides, *self.change, *more])

    def render(self, num_test_identities: int, num_pairs: int, workers: int) -> None:
        """Faces and pairs of the seed."""
        recipe = self.recipe()
        render_stage(recipe.synthetic, self._data, Mesh.single())
        if not self._pairs.with_suffix(".json").is_file():
            others = {"seed": PAIRS_SEED, "num_identities": num_test_identities}
            self._pairs.parent.mkdir(parents=True, exist_ok=True)
            faces = recipe.synthetic.model_copy(update=others)
            write_pairs(self._pairs, faces, num_pairs, workers=workers, quiet=True)

    def plant(self) -> None:
        """Noise, and which images are trusted: the first clean ones of each identity."""
        noise_stage(self.recipe().noise, self._data, self._noise, Mesh.single())
        given, truth = LabelOverlay.load(self._noise), self.truth()
        rows = np.flatnonzero(truth["is_clean"] & given.kept)
        order = rows[np.argsort(given.label[rows], kind="stable")]
        label = given.label[order]
        place = np.arange(len(order)) - np.searchsorted(label, label)
        kept = np.zeros(len(given.label), np.bool_)
        kept[order[place < TRUSTED]] = True
        LabelOverlay.make(given.label, kept).save(self._trusted)

    def truth(self) -> Mapping[str, Any]:
        """`is_clean` and `true_label` of every image."""
        return dict(np.load(self._noise / "truth.npz"))

    def mesh(self) -> Mesh:
        """Of this process."""
        return Mesh.single(self.device)  # type: ignore[arg-type]

    def train(self, name: str, *more: str) -> Numbers:
        """Train by the recipe with `more` into the folder `name`; its numbers."""
        recipe, folder = self.recipe(*more), self.own / name
        pipeline.train_stage(recipe, folder / "train", self.mesh())
        pipeline.evaluate_stage(recipe.evaluate, folder / "train", folder / EVALUATE, self.mesh())
        return numbers(folder / EVALUATE) | {"seconds": seconds(folder / "train")}

    def one(self, name: str) -> Rows:
        """A row of ROWS or GRID."""
        more = list({**ROWS, **GRID}[name])
        if "robust.name=l2b" in more:
            more.append(f"robust.trusted={self._trusted}")
            if self.quick:
                more.append("robust.batch_size=8")
        return {name: self.train(name.replace(" ", "_"), *more)}

    def plain(self) -> Rows:
        """The training that cleaning begins with."""
        return {"plain": self.train("run")}

    def on_true_labels(self) -> Rows:
        """The last row."""
        return {"true labels": self.train("true", "data.overlay=[]")}

    def sub_centres(self) -> Rows:
        """Three centres a class; then without what is far from the dominant one."""
        alone, dropped = self._drop(LabelOverlay.load(self._noise), "sub_centres")
        return {"sub-centres": alone, DROP: dropped}

    def _drop(self, given: LabelOverlay, name: str, *more: str) -> tuple[Numbers, Numbers]:
        """Train on `given`, which the overrides `more` name, with three centres; then as above."""
        alone = self.train(name, *CENTRES, *more)
        folder, recipe = self.own / name, self.recipe(*CENTRES, *more)
        embedded = folder / "embed"
        pipeline.embed_stage(recipe, folder / "train", embedded, self.mesh())
        class_ids, label = np.unique(given.label[given.kept], return_inverse=True)
        shape = len(class_ids), recipe.head.num_centres, recipe.model.embedding_size
        centre = torch.zeros(shape)
        newest = Checkpoints(folder / "train" / "checkpoints", Mesh.single(), 2).latest()
        assert newest is not None
        load_state({"head/weight": ShardedRows(centre, len(class_ids))}, newest, Mesh.single())
        embedding = torch.from_numpy(np.load(embedded / "embedding.npy").astype(np.float32))
        answer = drop_beyond(embedding, torch.from_numpy(label), centre)
        kept, score = given.kept.copy(), np.zeros(len(given.kept), np.float32)
        kept[given.kept] = answer.kept.numpy()
        score[given.kept] = (answer.cosine.numpy() + 1) / 2
        found = self._judged(given.label, kept, score)
        only = self._only(given, kept, folder / "kept")
        again = self.train(f"{name}_drop", *only, *self._longer(kept))
        again["seconds"] += alone["seconds"] + seconds(embedded)
        return alone, again | found

    def cleaning(self, name: str = "clean", into: str = "run", *more: str) -> Rows:
        """The rounds of cleaning that begin with plain training."""
        rows = self.plain()
        recipe, run = self.recipe(*more), self.own / into
        for stage in ("train", EVALUATE):
            if not (run / stage).is_dir():
                shutil.copytree(self.own / "run" / stage, run / stage)
        pipeline.run(recipe, run, self.mesh())
        spent = seconds(run / "train")
        rounds = [run_folder.round_folder(run, number) for number in range(1, recipe.rounds)]
        for number, folder in enumerate([*rounds, run], 1):
            answer = LabelOverlay.load(folder / "clean")
            spent += sum(seconds(folder / s) for s in ("embed", "graph", "clean", "retrain"))
            found = self._judged(answer.label, answer.kept, answer.clean_probability)
            rows[f"{name}, {number} round{'s' * (number > 1)}"] = (
                numbers(folder / EVALUATE_RETRAIN) | {"seconds": spent} | found
            )
        return rows

    def without_gcn(self) -> Rows:
        """Cleaning, and its rounds by the identity model alone."""
        return self.cleaning() | self.cleaning("posterior alone", "run_alone", "clean.gcn=false")

    def combined(self) -> Rows:
        """Cleaning, and what begins with its last round."""
        rows, run = self.without_gcn(), self.own / "run"
        spent = rows[f"clean, {self.rounds} round{'s' * (self.rounds > 1)}"]["seconds"]
        # What the retraining of the last round was, so the rest is as long.
        longer = read_json(run / "retrain" / "manifest.json")["config"]
        length = [
            f"train.epochs={longer['train']['epochs']}",
            f"train.margin_warmup_epochs={longer['train']['margin_warmup_epochs']}",
            f"schedule.warmup_epochs={longer['schedule']['warmup_epochs']}",
        ]
        both = f"data.overlay=[{self._noise / OVERLAY_FILE},{run / 'clean' / OVERLAY_FILE}]"
        for name, more in COMBINED.items():
            rows[name] = self.train(name.replace(" ", "_"), both, *length, *more)
            rows[name]["seconds"] += spent - seconds(run / "retrain")
        given, answer = LabelOverlay.load(self._noise), LabelOverlay.load(run / "clean")
        _, dropped = self._drop(answer, "clean_sub_centres", both, *length)
        dropped["seconds"] += spent - seconds(run / "retrain")
        rows[f"clean + {DROP}"] = dropped
        order = numpy_generator(self.seed, "control").permutation(len(answer.kept))
        truth = self.truth()["true_label"]
        right = answer.kept & (answer.label == truth)
        for name, label, kept in (
            ("control", given.label, given.kept & answer.kept[order]),
            ("clean without wrong ones", answer.label, right),
            ("true labels of as many", truth, right[order]),
        ):
            labels = dataclasses.replace(given, label=label)
            only = self._only(labels, kept, self.own / name.replace(" ", "_") / "kept")
            rows[name] = self.train(name.replace(" ", "_"), *only, *self._longer(kept))
        return rows

    def continued(self) -> Rows:
        """Trainings that go on from the one before, on labels given, dropped from, cleaned, true.

        Those of one number of trainings take as many steps.
        """
        for first in (self.plain, self.on_true_labels, self.sub_centres):
            first()
        rows: Rows = {}
        trainings, left = range(2, self.rounds + 2), self.own / "sub_centres" / "kept"
        longer = self._longer(LabelOverlay.load(left).kept)
        on_left = (f"data.overlay=[{left / OVERLAY_FILE}]", *longer)
        for name, before, more in (
            ("plain", "run", ()), ("true labels", "true", ("data.overlay=[]",)),
            (DROP, "sub_centres", on_left),
        ):  # fmt: skip
            for number in trainings:
                folder = f"{name.replace(' ', '_')}_{number}"
                weights = f"model.weights={self.own / before / 'train'}"
                rows[f"{number} trainings: {name}"] = self.train(folder, weights, *more)
                before = folder
        goes_on = "retrain.start=previous"
        rounds = [*self.cleaning("clean", "run_continued", goes_on).values()][1:]
        rows |= {f"{n} trainings: clean": row for n, row in zip(trainings, rounds, strict=True)}
        short = f"rounds={2 * self.rounds}", "retrain.length=0.25"
        last = [*self.cleaning("clean", "run_quarters", goes_on, *short).values()][-1]
        return rows | {f"{1 + self.rounds / 2} trainings: clean": last}

    def _only(self, given: LabelOverlay, kept: np.ndarray[Any, Any], folder: Path) -> list[str]:
        """Overrides that train on the labels of `given` of these images alone."""
        path = folder / OVERLAY_FILE
        path.parent.mkdir(exist_ok=True, parents=True)
        dataclasses.replace(given, kept=kept, source=np.ones_like(given.source)).save(path)
        return [f"data.overlay=[{path}]"]

    def _longer(self, kept: np.ndarray[Any, Any]) -> list[str]:
        """Overrides that make up for shorter epochs, as the pipeline does after a cleaning."""
        recipe = self.recipe()
        factor = LabelOverlay.load(self._noise).kept.sum() / kept.sum()
        return [
            f"train.epochs={round(recipe.train.epochs * factor)}",
            f"train.margin_warmup_epochs={recipe.train.margin_warmup_epochs * factor}",
            f"schedule.warmup_epochs={recipe.schedule.warmup_epochs * factor}",
        ]

    def _judged(
        self, label: np.ndarray[Any, Any], kept: np.ndarray[Any, Any], score: np.ndarray[Any, Any]
    ) -> Numbers:
        """F1 and AUROC of the noise, and the right and wrong labels that are trained on."""
        truth, given = self.truth(), LabelOverlay.load(self._noise)
        stays = kept & (label == given.label)
        found = noise_detection(np.nan_to_num(score, nan=0.5), stays, truth["is_clean"])
        right = label == truth["true_label"]
        numbers = {"right": float((kept & right).sum()), "wrong": float((kept & ~right).sum())}
        ranked = {"f1": found.f1, "auroc": found.auroc}
        return numbers | {name: value for name, value in ranked.items() if value is not None}


CHAINS: dict[str, Callable[[Setting], Rows]] = {
    "plain": Setting.plain,
    "clean": Setting.cleaning,
    "posterior alone": Setting.without_gcn,
    "clean, combined": Setting.combined,
    "sub-centres": Setting.sub_centres,
    "true labels": Setting.on_true_labels,
    "continued": Setting.continued,
}
"""What is done one after the other; every row of ROWS is a chain of its own."""


def run_chain(setting: Setting, chain: str) -> Rows:
    """The rows of one chain, in a process of its own or in this one."""
    torch.set_num_threads(1)
    configure_logging()
    if chain in CHAINS:
        return CHAINS[chain](setting)
    return setting.one(chain)


def chains(
    settings: Sequence[Setting], names: Sequence[str], jobs: int
) -> Iterator[tuple[Setting, Rows | None]]:
    """Every chain of every setting, as they end; None for one that failed."""
    work = [(setting, name) for name in names for setting in settings]
    if jobs == 1:
        for setting, name in work:
            yield setting, run_chain(setting, name)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        waiting: dict[Future[Rows], tuple[Setting, str]] = {
            pool.submit(run_chain, *one): one for one in work
        }
        for done in as_completed(waiting):
            setting, name = waiting[done]
            if done.exception() is None:
                yield setting, done.result()
            else:
                where = f"{name}, seed {setting.seed}, {setting.noise}"
                print(f"failed: {where}", file=sys.stderr)
                traceback.print_exception(done.exception())
                yield setting, None


def main() -> None:
    """Run the chains, print the tables, write JSON and markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--noise",
        nargs="+",
        default=["structured=0.4", "flip=0.4"],
        help="kind=share of each table",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=12_000)
    parser.add_argument("--chains", nargs="+", choices=[*CHAINS, *ROWS], help="all by default")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="change")
    parser.add_argument("--out", type=Path, required=True, help="kept, and gone on from")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--tune", action="store_true", help="rows of GRID, on another seed")
    given = parser.parse_args()
    configure_logging()
    if given.quick:
        given.pairs, given.seeds = 40, given.seeds[:1]
    names = given.chains or [*CHAINS, *ROWS]
    if given.tune:
        names, given.seeds = ["clean", "true labels", *GRID], [TUNING_SEED]
    repeated = {other for name in names for other in BEGIN_WITH.get(name, ())}
    names = [name for name in names if name not in repeated]
    settings = [
        Setting(
            given.out, seed, noise, given.rounds, given.device, tuple(given.change), given.quick
        )
        for seed in given.seeds
        for noise in given.noise
    ]
    for setting in settings:
        setting.render(20 if given.quick else 400, given.pairs, os.cpu_count() or 1)
        setting.plant()
    found: dict[str, dict[int, Rows]] = {noise: {} for noise in given.noise}
    if given.json and given.json.is_file():
        for noise, of_noise in read_json(given.json).items():
            found[noise] = {int(seed): rows for seed, rows in of_noise.items()}
    failed = 0
    for setting, rows in chains(settings, names, given.jobs):
        failed += rows is None
        of_seed = found[setting.noise].setdefault(setting.seed, {})
        of_seed |= rows or {}
        done = {n: {s: with_recovered(r) for s, r in sorted(of.items())} for n, of in found.items()}
        if given.json:
            write_json(given.json, json.loads(json.dumps(done)))
        if given.markdown:
            parts = [f"{n}\n\n{table([*of.values()], True)}\n" for n, of in done.items() if of]
            given.markdown.write_text("\n".join(parts))
    for noise, of_noise in done.items():
        print(noise, table([*of_noise.values()], markdown=False), sep="\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
