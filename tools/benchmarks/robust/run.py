r"""Plain training, SuperLoss, NAL and L2B under planted label noise, on digits and on faces.

    python -m tools.benchmarks.robust.run digits --json digits.json --pictures pictures
    python -m tools.benchmarks.robust.run features_mobilefacenet.npz --json faces.json
    python -m tools.benchmarks.robust.run digits --tune

`digits`: scikit-learn's. Else features `.npz` (embedding, label): identities with at least ten
images, a CosFace head on a linear layer on the frozen embeddings, three images of each identity
held out. Clean test images, the last epoch. A seed draws split, noise and first weights, the same
for every method. Rows:

  plain             the mean loss
  plain + trusted   with L2B's trusted images among the training images
  trusted alone     plain training on those only
  superloss, l2b    and l2rw, which weighs the given labels alone
  nal               on digits with the paper's attention branch; on faces with attention where it
                    would come to rest, the branch being a row of its own
  nal + targets     with estimated targets

recovered: the part of what plain training loses to the noise that is regained. AUROC of clean
against noisy training samples: of the weight (sigma, gate), of L2B's alpha and beta, in the last
epoch and of its mean over the last ten; and with the flags shuffled. `--tune` prints what CHOSEN
was read from: accuracy on noisy validation images at 40 % symmetric noise, on seeds that the tables
do not use.
"""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facetrain.report.style import save_figure
from facetrain.report.tables import format_table
from facetrain.report.training_figures import alpha_beta_figure, confusion_figure, weight_figure
from tools.benchmarks.common import make_parser, write_report
from tools.benchmarks.robust.runs import (
    JUDGES,
    Outcome,
    Row,
    Setup,
    digits_setup,
    faces_setup,
    run,
    shortened,
)
from tools.benchmarks.robust.tasks import Noise

NOISES: dict[str, list[tuple[Noise, float]]] = {
    "digits": [
        ("symmetric", 0.4),
        ("symmetric", 0.0),
        ("symmetric", 0.2),
        ("symmetric", 0.6),
        ("symmetric", 0.8),
        ("asymmetric", 0.4),
    ],
    "faces": [("symmetric", 0.4)],
}
CONTROLS: dict[str, Row] = {
    "plain": Row(),
    "plain, clipped": Row(clip_norm=0.8),  # what L2B's clipping gives by itself
    "plain + trusted": Row(on="noisy and trusted"),
    "trusted alone": Row(on="trusted"),
}
SUPERLOSS = Row({"name": "superloss", "lam": 0.03})
NAL = Row({"name": "nal", "boost": 0.1, "warmup_epochs": 5})
DIGITS_NAL = NAL.but(attention="joint")
L2B = Row({"name": "l2b", "batch_size": 50, "warmup_epochs": 1}, clip_norm=0.8)
FACES_L2B = replace(L2B.but(batch_size=128, warmup_epochs=5), clip_norm=None)
CHOSEN: dict[str, dict[str, Row]] = {
    "digits": {
        "superloss": SUPERLOSS.but(tau="log_classes"),
        "nal": DIGITS_NAL,
        "nal, at equilibrium": NAL,
        "nal + targets": DIGITS_NAL.but(targets={"count": 10, "warmup_epochs": 30}),
        "l2rw": L2B.but(pseudo_labels=False),
        "l2b": L2B,
    },
    "faces": {
        "superloss": SUPERLOSS.but(lam_follows_tau=True),
        "nal, branch": NAL.but(attention="branch"),
        "nal": NAL,
        "nal + targets": NAL.but(targets={"count": 10, "warmup_epochs": 12}),
        "l2rw": FACES_L2B.but(pseudo_labels=False),
        "l2b": FACES_L2B,
    },
}
TUNING_SEEDS = {"digits": (100, 101, 102), "faces": (100, 101)}


def grid(kind: str) -> dict[str, list[Row]]:
    """Settings that are tried for each method."""
    lams, boosts = (0.01, 0.03, 0.1, 0.25, 1.0), (0.1, 0.5, 2.0, 10.0)
    if kind == "faces":
        superloss: list[dict[str, Any]] = [{"lam": lam, "lam_follows_tau": True} for lam in lams]
        attentions, warm_ups = ("branch", "equilibrium"), {"nal": [5], "l2b": [1, 5]}
    else:
        taus = ("log_classes", "average", "exponential")
        superloss = [{"lam": lam, "tau": tau} for lam, tau in itertools.product(lams, taus)]
        attentions = ("joint", "equilibrium")
        warm_ups = {"nal": [3, 5, 10], "l2b": [1, 3, 5, 10]}
    nal = itertools.product(boosts, warm_ups["nal"], attentions)
    return {
        "superloss": [SUPERLOSS.but(**one) for one in superloss],
        "nal": [NAL.but(boost=b, warmup_epochs=w, attention=a) for b, w, a in nal],
        "l2b": [CHOSEN[kind]["l2b"].but(warmup_epochs=w) for w in warm_ups["l2b"]],
    }


def tune(setup: Setup, kind: str) -> str:
    """Validation accuracy of every setting, best first."""
    lines, seeds = [], TUNING_SEEDS[kind]
    for method, tried in grid(kind).items():
        found = []
        for row in tried:
            runs = [run(setup, row, "symmetric", 0.4, seed) for seed in seeds]
            found.append((float(np.mean([one.record.validation_score for one in runs])), row))
        found.sort(key=lambda pair: -pair[0])
        lines += [f"{method:10} {value:.4f} {row.robust}" for value, row in found]
    return "\n".join(lines)


def without_noise(setup: Setup, seed: int) -> dict[str, Outcome]:
    """What no noise touches: plain training on clean labels, and on the trusted images alone."""
    return {
        "clean": run(setup, Row(), "symmetric", 0.0, seed),
        "trusted alone": run(setup, CONTROLS["trusted alone"], "symmetric", 0.0, seed),
    }


def measure(setup: Setup, kind: str, noise: Noise, rate: float, seed: int) -> dict[str, Outcome]:
    """Every method under one noise."""
    return {
        name: run(setup, row, noise, rate, seed)
        for name, row in (CONTROLS | CHOSEN[kind]).items()
        if name != "trusted alone"
    }


def rows(outcomes: dict[int, dict[str, Outcome]]) -> list[list[str]]:
    """A row a method: accuracy, recovered, AUROCs; means over the seeds."""
    names = ["clean", *CONTROLS]
    names += [name for name in next(iter(outcomes.values())) if name not in names]
    accuracy = {name: np.array([one[name].score for one in outcomes.values()]) for name in names}
    lost = (accuracy["clean"] - accuracy["plain"]).mean()
    table = []
    for method, values in accuracy.items():
        gain = values - accuracy["plain"]
        recovered = f"{gain.mean() / lost:.2f}" if lost > 0 else "-"
        areas = [one[method].separation(seed) for seed, one in outcomes.items()]
        cells = []
        for name in JUDGES:
            if f"{name} last" in areas[0]:
                last = np.mean([area[f"{name} last"] for area in areas])
                mean = np.mean([area[f"{name} mean"] for area in areas])
                cells.append(f"{name} {last:.3f}, {mean:.3f}")
        if cells:
            cells.append(f"shuffled {np.mean([area['shuffled'] for area in areas]):.3f}")
        better = f"{int((gain > 0).sum())}/{len(gain)}"
        spread = f"{100 * values.mean():.1f} ± {100 * values.std():.1f}"
        table.append([method, spread, recovered, better, "; ".join(cells)])
    return table


def numbers(outcomes: dict[int, dict[str, Outcome]]) -> dict[str, Any]:
    """The same, seed by seed, for a file."""
    return {
        str(seed): {
            method: {"accuracy": one.score, **one.separation(seed)}
            for method, one in by_method.items()
        }
        for seed, by_method in outcomes.items()
    }


def draw(folder: Path, outcomes: dict[str, Outcome]) -> None:
    """The pictures of one seed."""
    for method, judge, title in (
        ("superloss", "weight", "SuperLoss: sigma"),
        ("nal", "weight", "NAL: gate"),
        ("l2b", "alpha", "L2B: alpha"),
    ):
        one = outcomes[method]
        figure = weight_figure(one.record.seen[judge], one.is_clean, title)
        save_figure(figure, folder / f"{method}_weights.png")
    nal, l2b = outcomes["nal + targets"], outcomes["l2b"]
    estimated = nal.record.seen["estimated_label"][-1]
    met = np.isfinite(estimated)  # the last epoch leaves out what fills no batch
    figure = confusion_figure(
        nal.given_label[met], estimated[met].astype(np.int64), nal.true_label[met]
    )
    save_figure(figure, folder / "nal_confusion.png")
    seen = l2b.record.seen
    figure = alpha_beta_figure(seen["alpha"], seen["beta"], l2b.is_clean)
    save_figure(figure, folder / "l2b_alpha_beta.png")


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, print."""
    parser = make_parser(__doc__)
    parser.add_argument("data", help="`digits`, or features .npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, help="instead of the setup's, for a quick look")
    parser.add_argument("--noise", nargs="+", help="some of the table, e.g. symmetric:0.4")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--pictures", type=Path, help="of the first seed at 40 %% symmetric noise")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kind = "digits" if given.data == "digits" else "faces"
    setup = digits_setup() if kind == "digits" else faces_setup(Path(given.data))
    setup = shortened(setup, given.epochs)
    if given.tune:
        print(tune(setup, kind))
        return
    everything = {}
    noiseless = {seed: without_noise(setup, seed) for seed in given.seeds}
    for noise, rate in NOISES[kind]:
        if given.noise and f"{noise}:{rate:g}" not in given.noise:
            continue
        started = time.monotonic()
        outcomes = {
            seed: noiseless[seed] | measure(setup, kind, noise, rate, seed) for seed in given.seeds
        }
        header = ["method", "accuracy %", "recovered", "better", "AUROC: last epoch, mean of ten"]
        seconds = time.monotonic() - started
        print(f"\n{noise} {100 * rate:g} %, {len(given.seeds)} seeds, {seconds:.0f} s", flush=True)
        print(format_table(header, rows(outcomes)), flush=True)
        everything[f"{noise} {rate:g}"] = numbers(outcomes)
        if given.pictures and (noise, rate) == ("symmetric", 0.4):
            draw(given.pictures, outcomes[given.seeds[0]])
        write_report(everything, given.json, show=False)


if __name__ == "__main__":
    main()
