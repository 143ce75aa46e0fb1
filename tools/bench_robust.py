r"""Plain training, SuperLoss, NAL and L2B under planted label noise, on digits and on faces.

    python tools/bench_robust.py digits --json digits.json --pictures pictures
    python tools/bench_robust.py features_mobilefacenet.npz --json faces.json
    python tools/bench_robust.py digits --tune

`digits`: scikit-learn's. Else features `.npz` (embedding, label): identities with at least ten
images, a CosFace head on a linear layer on the frozen embeddings, three images of each identity
held out. Clean test images, the last epoch. A seed draws split, noise and first weights, the same
for every method. Rows:

  plain             the mean loss
  plain + trusted   with L2B's trusted images among the training images
  trusted alone     plain training on those only
  superloss, l2b
  nal               on digits with the paper's attention branch; on faces with attention where it
                    would come to rest, the branch being a row of its own
  nal + targets     with estimated targets

recovered: the part of what plain training loses to the noise that is regained. AUROC of clean
against noisy training samples: of the weight (sigma, gate, alpha) and of NAL's tau, L2B's alpha
before it is clamped (raw) and beta, in the last epoch and of its mean over the last ten; and with
the flags shuffled. `--tune` prints what CHOSEN was read from: accuracy on noisy validation images
at 40 % symmetric noise, on seeds that the tables do not use.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robust_runs import Outcome, Setup, digits_setup, faces_setup, run, shortened
from robust_tasks import Noise

from facetrain.core.artifact import write_json
from facetrain.report.style import save_figure
from facetrain.report.tables import format_table
from facetrain.report.training_figures import alpha_beta_figure, confusion_figure, weight_figure

Settings = dict[str, Any]
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
CONTROLS: dict[str, tuple[str, Settings]] = {
    "plain": ("plain", {}),
    "plain, clipped": ("plain", {"clip_norm": 0.8}),  # what L2B's clipping gives by itself
    "plain + trusted": ("plain + trusted", {}),
    "trusted alone": ("trusted alone", {}),
}
DIGITS_NAL: Settings = {"boost": 0.1, "warm_up": 5}
FACES_NAL: Settings = {"boost": 0.1, "warm_up": 5}
BRANCH: Settings = {"first_logit": 4.0, "detached": True}
CHOSEN: dict[str, dict[str, tuple[str, Settings]]] = {
    "digits": {
        "superloss": ("superloss", {"lam": 0.03, "tau": "log_classes"}),
        "nal": ("nal", DIGITS_NAL),
        "nal + targets": ("nal", {**DIGITS_NAL, "estimation": {"start": 30}}),
        "l2b": ("l2b", {"warm_up": 1, "clip_norm": 0.8}),
    },
    "faces": {
        "superloss": ("superloss", {"lam": 0.03, "tau": "exponential", "scaled": True}),
        "nal, branch": ("nal", {**FACES_NAL, **BRANCH}),
        "nal": ("nal", {**FACES_NAL, "equilibrium": True}),
        "nal + targets": ("nal", {**FACES_NAL, "equilibrium": True, "estimation": {"start": 12}}),
        "l2b": ("l2b", {"warm_up": 5}),
    },
}
TUNING_SEEDS = {"digits": (100, 101, 102), "faces": (100, 101)}


def grid(kind: str) -> dict[str, list[Settings]]:
    """Settings that are tried for each method."""
    lams = (0.01, 0.03, 0.1, 0.25, 1.0)
    boosts = (0.1, 0.5, 2.0, 10.0)
    if kind == "faces":
        superloss = [{"lam": lam, "tau": "exponential", "scaled": True} for lam in lams]
        attentions: list[Settings] = [BRANCH, {"equilibrium": True}]
        warm_ups: dict[str, tuple[int, ...]] = {"nal": (5,), "l2b": (1, 5)}
    else:
        taus = ("log_classes", "average", "exponential")
        superloss = [{"lam": lam, "tau": tau} for lam, tau in itertools.product(lams, taus)]
        attentions = [{}]
        warm_ups = {"nal": (3, 5, 10), "l2b": (1, 3, 5, 10)}
    return {
        "superloss": superloss,
        "nal": [
            {"boost": boost, "warm_up": warm_up, **attention}
            for boost, warm_up, attention in itertools.product(boosts, warm_ups["nal"], attentions)
        ],
        "l2b": [{"warm_up": warm_up} for warm_up in warm_ups["l2b"]],
    }


def tune(setup: Setup, kind: str) -> str:
    """Validation accuracy of every setting, best first."""
    lines, seeds = [], TUNING_SEEDS[kind]
    for method, tried in grid(kind).items():
        found = []
        for settings in tried:
            runs = [run(setup, method, settings, "symmetric", 0.4, seed) for seed in seeds]
            found.append((float(np.mean([one.record.validation_score for one in runs])), settings))
        found.sort(key=lambda pair: -pair[0])
        lines += [f"{method:10} {value:.4f} {settings}" for value, settings in found]
    return "\n".join(lines)


def without_noise(setup: Setup, seed: int) -> dict[str, Outcome]:
    """What no noise touches: plain training on clean labels, and on the trusted images alone."""
    return {
        "clean": run(setup, "plain", {}, "symmetric", 0.0, seed),
        "trusted alone": run(setup, "trusted alone", {}, "symmetric", 0.0, seed),
    }


def measure(setup: Setup, kind: str, noise: Noise, rate: float, seed: int) -> dict[str, Outcome]:
    """Every method under one noise."""
    return {
        row: run(setup, method, settings, noise, rate, seed)
        for row, (method, settings) in (CONTROLS | CHOSEN[kind]).items()
        if row != "trusted alone"
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
        for name in ("weight", "tau", "raw", "beta"):
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
    for method, title in (
        ("superloss", "SuperLoss: sigma"),
        ("nal", "NAL: gate"),
        ("l2b", "L2B: alpha"),
    ):
        one = outcomes[method]
        figure = weight_figure(one.record.seen["weight"], one.is_clean, title)
        save_figure(figure, folder / f"{method}_weights.png")
    nal, l2b = outcomes["nal + targets"], outcomes["l2b"]
    assert nal.estimated_label is not None
    figure = confusion_figure(nal.given_label, nal.estimated_label, nal.true_label)
    save_figure(figure, folder / "nal_confusion.png")
    seen = l2b.record.seen
    figure = alpha_beta_figure(seen["weight"], seen["beta"], l2b.is_clean)
    save_figure(figure, folder / "l2b_alpha_beta.png")


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, print."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="`digits`, or features .npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, help="instead of the setup's, for a quick look")
    parser.add_argument("--noise", nargs="+", help="some of the table, e.g. symmetric:0.4")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--json", type=Path)
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
        if given.json:
            write_json(given.json, everything)


if __name__ == "__main__":
    main()
