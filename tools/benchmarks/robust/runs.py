"""What a run of a robust method is made of: a data set's setup, a row of a table, an outcome."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facetrain.core.errors import DataError
from facetrain.core.rng import derive_seed, numpy_generator
from facetrain.engine.schedule import ScheduleConfig
from facetrain.engine.settings import TrainingConfig
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.metrics.noise import auroc
from facetrain.report.tables import format_table
from tools.benchmarks.common import training_config
from tools.benchmarks.robust.images import WHERE, crop_and_flip, read_cifar
from tools.benchmarks.robust.networks import LinearHead, perceptron, residual_network
from tools.benchmarks.robust.tasks import Labels, Noise, Pool, digits, faces, make_task
from tools.benchmarks.robust.training import Augment, Record, train

_LAST_EPOCHS = 10
JUDGES = ("weight", "alpha", "beta")
"""What a method keeps of each sample that may tell noise: sigma or gate, and L2B's two."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    robust: dict[str, Any] | None = None
    """The recipe's section; plain training for None."""
    clip_norm: float | None = None
    """In place of the configuration's."""
    on: Literal["noisy", "noisy and trusted", "trusted"] = "noisy"
    """Which images are trained on."""

    def but(self, **settings: Any) -> "Row":
        """The same with other settings of the method."""
        return replace(self, robust={**(self.robust or {}), **settings})


@dataclass(frozen=True)
class Setup:
    """A data set, a network for it and how it is trained, the same for every method."""

    pool: Pool
    network: Callable[[int], tuple[nn.Module, MarginHead]]
    """(seed) -> a new backbone and head."""
    config: TrainingConfig
    num_trusted: int = 0
    """Trusted images of each class, which only L2B and its controls read."""
    validation: float = 0.0
    augment: Augment | None = None
    at_most: float = np.inf
    """What one error of a regression counts on the validation images."""
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    record: Record
    is_clean: NDArray[np.bool_]  # (N,)
    true_label: Labels  # (N,)
    given_label: Labels  # (N,)

    @property
    def score(self) -> float:
        """On the test images, after the last epoch: accuracy, or minus the absolute error."""
        return self.record.test_score

    def separation(self, seed: int) -> dict[str, float]:
        """AUROC of clean against noisy samples, for each number that tells noise.

        `... last`: in the last epoch. `... mean`: of each sample's mean over the last ten epochs.
        `shuffled`: the weight's (alpha's) mean against flags in random order, so about 0.5.
        """
        areas: dict[str, float] = {}
        if self.is_clean.all():
            return areas
        for name in [name for name in JUDGES if name in self.record.seen]:
            value = self.record.seen[name][-_LAST_EPOCHS:]
            met = np.isfinite(value).any(0)  # an epoch leaves out what fills no batch
            mean, flags = np.nanmean(value[:, met], axis=0), self.is_clean[met]
            last = np.isfinite(value[-1])
            areas[f"{name} last"] = auroc(value[-1][last], self.is_clean[last]) or 0.0
            areas[f"{name} mean"] = auroc(mean, flags) or 0.0
            if name != "beta":
                mixed = numpy_generator(seed, "shuffled").permutation(flags)
                areas["shuffled"] = auroc(mean, mixed) or 0.0
        return areas


def sgd(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    *,
    weight_decay: float = 5e-4,
    clip_norm: float | None = None,
    falls: ScheduleConfig | None = None,
) -> TrainingConfig:
    """SGD with momentum 0.9 and a cosine."""
    return training_config(
        optimizer={"learning_rate": learning_rate, "weight_decay": weight_decay},
        schedule=falls or ScheduleConfig(),
        train={
            "batch_size": batch_size, "epochs": epochs, "clip_norm": clip_norm,
            "precision": "float32",
        },
    )  # fmt: skip


def digits_setup() -> Setup:
    """Two hidden layers of 256 and cross-entropy: enough to memorise a good part of the noise."""

    def network(seed: int) -> tuple[nn.Module, MarginHead]:
        torch.manual_seed(derive_seed(seed, "network"))
        return perceptron([64, 256, 256]), LinearHead(10, 256, seed)

    return Setup(digits(), network, sgd(100, 64, 0.1), num_trusted=5, validation=0.2)


def faces_setup(path: Path) -> Setup:
    """A linear layer to 512 dimensions on frozen embeddings, then CosFace.

    Centres alone cannot memorise: an embedding of 128 dimensions gives 40 % noise no room.
    """
    pool = faces(path)

    def network(seed: int) -> tuple[nn.Module, MarginHead]:
        torch.manual_seed(derive_seed(seed, "network"))
        head = HeadConfig(margin="cosface", scale=32.0)
        backbone = nn.Linear(pool.x.shape[1], 512)
        return backbone, MarginHead(head, pool.num_classes, 512, seed=seed)

    return Setup(pool, network, sgd(40, 128, 0.1), num_trusted=2, validation=0.1)


def cifar_setup(
    folder: Path | None, num_classes: int, network_name: str, config: TrainingConfig, device: str
) -> Setup:
    """CIFAR with crops and mirroring; a 50th (1,000) is trusted, which L2B alone reads.

    Raises:
        DataError: no folder, or not CIFAR in it.
    """
    if folder is None:
        raise DataError(f"--data must name {WHERE[f'cifar{num_classes}']}")
    pool = read_cifar(folder, num_classes)

    def network(seed: int) -> tuple[nn.Module, MarginHead]:
        torch.manual_seed(derive_seed(seed, "network"))
        backbone, size = residual_network(network_name)
        return backbone, LinearHead(num_classes, size, seed)

    return Setup(
        pool,
        network,
        config,
        num_trusted=max(1, int((~pool.test).sum()) // (50 * num_classes)),
        augment=crop_and_flip,
        device=device,
    )


def run(setup: Setup, row: Row, noise: Noise, rate: float, seed: int) -> Outcome:
    """Train once. Runs of one seed share split, noise, first weights and the samples' order."""
    task = make_task(
        setup.pool,
        noise,
        rate,
        seed,
        num_trusted=setup.num_trusted,
        validation=setup.validation,
        device=setup.device,
    )
    if row.on == "noisy and trusted":
        task = task.with_trusted()
    elif row.on == "trusted":
        task = task.only_trusted()
    config = setup.config
    if row.clip_norm is not None:
        loop = config.train.model_copy(update={"clip_norm": row.clip_norm})
        config = config.model_copy(update={"train": loop})
    record = train(
        *setup.network(seed),
        row.robust,
        task,
        config,
        seed,
        augment=setup.augment,
        at_most=setup.at_most,
    )
    given, true = task.label.cpu().numpy(), task.true_label.cpu().numpy()
    return Outcome(record, given == true, true, given)


def shortened(setup: Setup, epochs: int | None) -> Setup:
    """The setup with another number of epochs; the same without one."""
    if epochs is None:
        return setup
    loop = setup.config.train.model_copy(update={"epochs": epochs})
    return replace(setup, config=setup.config.model_copy(update={"train": loop}))


def arguments_of(
    parser: argparse.ArgumentParser,
    given: list[str] | None,
    datasets: tuple[str, ...],
    network: str,
    num_seeds: int,
) -> argparse.Namespace:
    """What all tools of `reproduce` take, besides what `parser` has.

    Args:
        parser: of `make_parser`; gets the arguments.
        given: the command line; that of the process without it.
    """
    parser.add_argument("--dataset", choices=datasets, required=True)
    parser.add_argument("--data", type=Path, help="folder of your download; nothing is fetched")
    parser.add_argument("--rates", type=float, nargs="+", help="shares of noise, 0 to 1")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(num_seeds)))
    parser.add_argument("--epochs", type=int, help="instead of the paper's, for a quick look")
    parser.add_argument("--network", default=network, help="for CIFAR")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(given)


def accuracies(
    setup: Setup,
    rows: dict[str, Row],
    noises: list[tuple[Noise, float]],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Print accuracy in percent, rows by noises, mean and spread over the seeds.

    Args:
        noises: (kind, rate).
        arguments: `seeds` and `epochs` are read.

    Returns:
        The accuracies, and AUROCs of the weights.
    """
    setup = shortened(setup, arguments.epochs)
    lines, found = [], {}
    for name, row in rows.items():
        cells = []
        for noise, rate in noises:
            runs = [run(setup, row, noise, rate, seed) for seed in arguments.seeds]
            scores = [one.score for one in runs]
            cells.append(f"{100 * np.mean(scores):.2f} ± {100 * np.std(scores):.2f}")
            print(f"{name}, {noise} {rate:g}: {cells[-1]}", flush=True)
            found[f"{name}, {noise} {rate:g}"] = [
                {"accuracy": one.score, **one.separation(seed)}
                for seed, one in zip(arguments.seeds, runs, strict=True)
            ]
        lines.append([name, *cells])
    print_table(["accuracy %", *(f"{noise} {100 * rate:g} %" for noise, rate in noises)], lines)
    return found


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """On standard output."""
    print(format_table(header, rows), flush=True)
