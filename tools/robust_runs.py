"""What a run of a robust method is made of: a data set's setup, a method by name, an outcome."""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from robust_images import WHERE, crop_and_flip, read_cifar
from robust_networks import Classifier, Regressor, perceptron, residual_network
from robust_tasks import Labels, Noise, Pool, Task, digits, faces, make_task
from robust_training import (
    Bootstrap,
    Estimation,
    NoiseAttention,
    Plain,
    Record,
    Schedule,
    SuperLoss,
    train,
)
from torch import Tensor, nn

from facetrain.core.errors import DataError
from facetrain.core.progress import progress
from facetrain.core.rng import derive_seed, numpy_generator
from facetrain.heads.head_config import HeadConfig
from facetrain.metrics.noise import auroc
from facetrain.report.tables import format_table

METHODS = ("plain", "plain + trusted", "trusted alone", "superloss", "nal", "l2b")
_LAST_EPOCHS = 10


@dataclass(frozen=True)
class Setup:
    """A data set, a network for it and how it is trained, the same for every method."""

    pool: Pool
    network: Callable[[int], Classifier | Regressor]
    """(seed) -> a new network."""
    schedule: Schedule
    num_trusted: int
    """Trusted images of each class, which only L2B and its controls read."""
    meta_batch_size: int
    validation: float = 0.0
    augment: Callable[[Tensor], Tensor] | None = None
    validate: dict[str, Any] | None = None
    """Further arguments of `score` on the validation images."""
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    record: Record
    is_clean: NDArray[np.bool_]  # (N,)
    true_label: Labels  # (N,)
    given_label: Labels  # (N,)
    estimated_label: Labels | None  # (N,), of estimated targets

    @property
    def score(self) -> float:
        """On the test images, after the last epoch: accuracy, or minus the absolute error."""
        return float(self.record.test_score[-1])

    def separation(self, seed: int) -> dict[str, float]:
        """AUROC of clean against noisy samples, for each number that the method keeps of them.

        `... last`: in the last epoch. `... mean`: of each sample's mean over the last ten epochs.
        `shuffled`: the weight's mean against flags in random order, so about 0.5.
        """
        areas: dict[str, float] = {}
        if self.is_clean.all():
            return areas
        for name, value in self.record.seen.items():
            mean = np.nanmean(value[-_LAST_EPOCHS:], axis=0)
            areas[f"{name} last"] = auroc(value[-1], self.is_clean) or 0.0
            areas[f"{name} mean"] = auroc(mean, self.is_clean) or 0.0
            if name == "weight":
                flags = numpy_generator(seed, "shuffled").permutation(self.is_clean)
                areas["shuffled"] = auroc(mean, flags) or 0.0
        return areas


def digits_setup() -> Setup:
    """Two hidden layers of 256 and cross-entropy: enough to memorise a good part of the noise."""

    def network(seed: int) -> Classifier:
        torch.manual_seed(derive_seed(seed, "network"))
        return Classifier(nn.Sequential(perceptron([64, 256, 256]), nn.ReLU()), 256, 10)

    schedule = Schedule(epochs=100, batch_size=64, learning_rate=0.1, weight_decay=5e-4)
    return Setup(digits(), network, schedule, num_trusted=5, meta_batch_size=50, validation=0.2)


def faces_setup(path: Path) -> Setup:
    """A linear layer to 512 dimensions on frozen embeddings, then CosFace.

    Centres alone cannot memorise: an embedding of 128 dimensions gives 40 % noise no room.
    """
    pool = faces(path)
    size = pool.x.shape[1]

    def network(seed: int) -> Classifier:
        torch.manual_seed(derive_seed(seed, "network"))
        head = HeadConfig(margin="cosface", scale=32.0)
        return Classifier(perceptron([size, 512]), 512, pool.num_classes, head, seed)

    schedule = Schedule(epochs=40, batch_size=128, learning_rate=0.1, weight_decay=5e-4)
    return Setup(pool, network, schedule, num_trusted=2, meta_batch_size=128, validation=0.1)


def cifar_setup(
    folder: Path | None, num_classes: int, network_name: str, schedule: Schedule, device: str
) -> Setup:
    """CIFAR with crops and mirroring; a 50th (1,000) is trusted, which L2B alone reads.

    Raises:
        DataError: no folder, or not CIFAR in it.
    """
    if folder is None:
        raise DataError(f"--data must name {WHERE[f'cifar{num_classes}']}")
    pool = read_cifar(folder, num_classes)

    def network(seed: int) -> Classifier:
        torch.manual_seed(derive_seed(seed, "network"))
        backbone, size = residual_network(network_name)
        return Classifier(backbone, size, num_classes)

    return Setup(
        pool,
        network,
        schedule,
        num_trusted=max(1, int((~pool.test).sum()) // (50 * num_classes)),
        meta_batch_size=schedule.batch_size,
        augment=crop_and_flip,
        device=device,
    )


def run(
    setup: Setup,
    method: str,
    settings: dict[str, Any],
    noise: Noise,
    rate: float,
    seed: int,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Outcome:
    """Train once. Runs of one seed share split, noise, first weights and the samples' order.

    Args:
        setup: the data set.
        method: one of METHODS.
        settings: the method's own. NAL's `estimation` is that of estimated targets; `clip_norm`
            of any method takes the place of the schedule's.
        noise: kind.
        rate: 0 to 1.
        seed: of everything.
        watch: wraps the epochs, for progress.
    """
    task = make_task(
        setup.pool,
        noise,
        rate,
        seed,
        num_trusted=setup.num_trusted,
        validation=setup.validation,
        device=setup.device,
    )
    if method == "plain + trusted":
        task = task.with_trusted()
    elif method == "trusted alone":
        task = task.only_trusted()
    network, schedule, own = setup.network(seed), setup.schedule, dict(settings)
    if "clip_norm" in own:
        schedule = replace(schedule, clip_norm=own.pop("clip_norm"))
    with tempfile.TemporaryDirectory() as folder:
        module = _module(setup, method, own, network, task, seed, Path(folder))
        record = train(
            network,
            module,
            task,
            schedule,
            seed,
            augment=setup.augment,
            validate=setup.validate,
            watch=watch,
        )
        estimated = None
        if isinstance(module, NoiseAttention) and module.targets is not None:
            estimated = module.estimated_label(torch.arange(len(task.x))).numpy()
    given, true = task.label.cpu().numpy(), task.true_label.cpu().numpy()
    return Outcome(record, given == true, true, given, estimated)


def _module(
    setup: Setup,
    method: str,
    settings: dict[str, Any],
    network: Classifier | Regressor,
    task: Task,
    seed: int,
    folder: Path,
) -> nn.Module:
    """The method by its name."""
    if method == "superloss":
        num_classes = task.num_classes if settings.get("tau") == "log_classes" else None
        return SuperLoss(num_classes=num_classes, **settings)
    if method == "nal":
        own = dict(settings)
        estimation = own.pop("estimation", None)
        return NoiseAttention(
            embedding_size=network.embedding_size,
            label=task.label.cpu(),
            estimation=None if estimation is None else Estimation(folder, **estimation),
            **own,
        )
    if method == "l2b":
        trusted = task.trusted_x, task.trusted_label
        return Bootstrap(*trusted, setup.meta_batch_size, seed=seed, **settings)
    return Plain()


def shortened(setup: Setup, epochs: int | None) -> Setup:
    """The setup with another number of epochs; the same without one."""
    if epochs is None:
        return setup
    return replace(setup, schedule=replace(setup.schedule, epochs=epochs))


def arguments_of(
    parser: argparse.ArgumentParser,
    given: list[str] | None,
    datasets: tuple[str, ...],
    network: str,
    num_seeds: int,
) -> argparse.Namespace:
    """What all `reproduce_*` tools take, besides what `parser` has.

    Args:
        parser: gets the arguments.
        given: the command line; that of the process without it.
        datasets: for `--dataset`.
        network: default of `--network`.
        num_seeds: default of `--seeds`.
    """
    parser.add_argument("--dataset", choices=datasets, required=True)
    parser.add_argument("--data", type=Path, help="folder of your download; nothing is fetched")
    parser.add_argument("--rates", type=float, nargs="+", help="shares of noise, 0 to 1")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(num_seeds)))
    parser.add_argument("--epochs", type=int, help="instead of the paper's, for a quick look")
    parser.add_argument("--network", default=network, help="for CIFAR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(given)


def accuracies(
    setup: Setup,
    methods: dict[str, tuple[str, dict[str, Any]]],
    noises: list[tuple[Noise, float]],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Print accuracy in percent, methods by noises, mean and spread over the seeds.

    Args:
        setup: the data set.
        methods: what a row is called -> method and settings.
        noises: (kind, rate).
        arguments: `seeds` and `epochs` are read.

    Returns:
        The accuracies, and AUROCs of the weights.
    """
    setup = shortened(setup, arguments.epochs)
    rows, found = [], {}
    for row, (method, settings) in methods.items():
        cells = []
        for noise, rate in noises:
            runs = []
            for seed in arguments.seeds:
                label = f"{row}, {noise} {rate:g}, seed {seed}"

                def watch(epochs: Iterable[int], label: str = label) -> Iterable[int]:
                    return progress(epochs, label, unit="epoch")

                runs.append(run(setup, method, settings, noise, rate, seed, watch))
            scores = [one.score for one in runs]
            cells.append(f"{100 * np.mean(scores):.2f} ± {100 * np.std(scores):.2f}")
            found[f"{row}, {noise} {rate:g}"] = [
                {"accuracy": one.score, **one.separation(seed)}
                for seed, one in zip(arguments.seeds, runs, strict=True)
            ]
        rows.append([row, *cells])
    print_table(["accuracy %", *(f"{noise} {100 * rate:g} %" for noise, rate in noises)], rows)
    return found


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """On standard output."""
    print(format_table(header, rows), flush=True)
