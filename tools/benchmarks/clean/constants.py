"""What half and twice of each number set by hand do to F1, and what a part of the model gives.

    python -m tools.benchmarks.clean.lfw_noise FEATURES_FOLDER sets --seeds 0 1
    python -m tools.benchmarks.clean.constants sets --seeds 0 1 --json F

The posterior without the GCN, one number changed at a time: mean F1 of the noise over both
embeddings, the seeds and four kinds of noise with a source, and over two kinds without one. A row
shows the difference to the constants as they are.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from facetrain.clean import identity_model, model_choice, posterior, posterior_calibration
from facetrain.clean.clean import CleanConfig
from facetrain.clean.identity_model import IdentityModel
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.model_choice import fit_to, fit_unsupervised
from facetrain.clean.posterior import Calibration
from facetrain.clean.posterior_calibration import calibrate
from facetrain.data.features import Features, load_features
from facetrain.dist.mesh import Mesh
from tools.benchmarks.clean.run import embedded, f1
from tools.benchmarks.common import machine, make_parser, markdown_table, write_report

MODELS = ("mobilefacenet", "dlib")
WITH_SOURCE, ALONE = ("uniform20", "uniform40", "structured", "flip40"), ("uniform20", "structured")
CONFIG, MESH = CleanConfig(gcn=False), Mesh.single()


class Change(NamedTuple):
    """One number, and what it becomes."""

    name: str
    value: str
    module: ModuleType
    attribute: str
    to: Any


def _numbers() -> Iterator[Change]:
    """Half and twice of each, and parts of the model taken out."""
    halves: list[tuple[str, ModuleType, str, tuple[Any, Any]]] = [
        ("strength of W's prior, images a dimension", identity_model, "_PRIOR_WITHIN", (4, 16)),
        ("strength of B's prior, people a dimension", identity_model, "_PRIOR_BETWEEN", (0.25, 1)),
        ("candidates", posterior, "NUM_CANDIDATES", (4, 16)),
        ("passes of the posterior", posterior, "_PASSES", (3, 12)),
        ("damping", posterior, "_DAMPING", (0.25, 0.75)),
        ("images that smooth a class's noise rate", posterior, "_PRIOR_IMAGES", (8, 32)),
        ("rounds of calibration", posterior_calibration, "_ROUNDS", (1, 4)),
        ("rounds of the fit without a source", model_choice, "_ROUNDS", (1, 4)),
        ("share of strangers to begin at", model_choice, "_STRANGERS", (0.98, 0.995)),
        ("weight of those further off", model_choice, "_LITTLE", (0.025, 0.1)),
        ("temperature while fitting", model_choice, "_UNFITTED",
         (Calibration(0.25), Calibration(1.0))),
    ]  # fmt: skip
    for name, module, attribute, values in halves:
        for value in values:
            number = value.temperature if isinstance(value, Calibration) else value
            yield Change(name, f"{number:g}", module, attribute, value)
    fit = identity_model.fit_identities
    other_fits = {
        ("iterations of EM for W and B", "3"): functools.partial(fit, iterations=3),
        ("iterations of EM for W and B", "10"): functools.partial(fit, iterations=10),
        ("spreads of the heavy tail", "1 (Gaussian)"): functools.partial(fit, spread=(1.0,)),
        ("spreads of the heavy tail", "1, 2"): functools.partial(fit, spread=(1.0, 2.0)),
        ("spreads of the heavy tail", "1, 1.5, 2, 3, 5"): functools.partial(
            fit, spread=(1.0, 1.5, 2.0, 3.0, 5.0)
        ),
    }
    for (name, shown), other in other_fits.items():
        yield Change(name, shown, model_choice, "fit_identities", other)
    no_shrinkage: Callable[..., torch.Tensor] = lambda covariance, number: (  # noqa: E731
        covariance + 1e-5 * covariance.trace() / len(covariance) * torch.eye(len(covariance))
    )
    yield Change("shrinkage of the covariance", "none", identity_model, "shrunk", no_shrinkage)


@contextmanager
def changed(change: Change | None) -> Iterator[None]:
    """The cleaner with one number changed."""
    if change is None:
        yield
        return
    with patch.object(change.module, change.attribute, change.to):
        yield


def score(
    target: Features, known: LabelledSet | None, model: IdentityModel | None, draws: int
) -> float:
    """F1 on one target by its source's model, or by its own."""
    assert target.is_clean is not None
    labelled = LabelledSet(_embedded(target), target.label, CONFIG.graph)
    if known is None or model is None:
        model, probability = fit_unsupervised(labelled, MESH)
        known = labelled.only(probability > 0.5)
    noisy = [known.with_noise(0, "calibrate", draw) for draw in range(draws)]
    weights = calibrate(noisy, [None] * draws, model)
    found = posterior.Estimation(labelled, model, weights, None, MESH).run().posterior()
    return f1((found.probability[:, 0] > 0.5).numpy(), target.is_clean)


_EMBEDDED: dict[int, Any] = {}


def _embedded(features: Features) -> Any:
    """With its graph, made once."""
    key = id(features)
    if key not in _EMBEDDED:
        _EMBEDDED[key] = embedded(features.embedding, CONFIG)
    return _EMBEDDED[key]


def main() -> None:
    """Parse, run, print."""
    parser = make_parser(__doc__)
    parser.add_argument("sets", type=Path, help="what lfw_noise wrote")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--draws", type=int, default=3, help="of noise, to calibrate by")
    arguments = parser.parse_args()
    splits = [(model, seed) for model in MODELS for seed in arguments.seeds]

    def load(*parts: object) -> Features:
        return load_features(arguments.sets / ("_".join(map(str, parts)) + ".npz"))

    kinds = dict.fromkeys(WITH_SOURCE + ALONE)
    targets = {
        (model, kind, seed): load("target", model, kind, seed)
        for model, seed in splits
        for kind in kinds
    }
    sources = {(model, seed): load("source", model, seed) for model, seed in splits}
    rows: list[dict[str, Any]] = []

    def measure(change: Change | None) -> None:
        with changed(change):
            of_source, alone = [], []
            for (model, seed), source in sources.items():
                assert source.is_clean is not None
                right = np.where(source.is_clean, source.label, -1)
                known = LabelledSet(_embedded(source), right, CONFIG.graph)
                fitted = fit_to(known, known.ones())
                of_source += [
                    score(targets[model, kind, seed], known, fitted, arguments.draws)
                    for kind in WITH_SOURCE
                ]
                alone += [
                    score(targets[model, kind, seed], None, None, arguments.draws) for kind in ALONE
                ]
        name, value = (change.name, change.value) if change else ("as it is", "")
        rows.append(
            {"name": name, "value": value, "with_source": of_source, "without_source": alone}
        )
        write_report({**machine(), "rows": rows}, arguments.json, show=False)
        print(_table(rows[:1] + rows[-1:]).splitlines()[-1], flush=True)

    measure(None)
    for change in _numbers():
        measure(change)
    print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], column: str) -> str:
        mean, of_first = float(np.mean(row[column])), float(np.mean(rows[0][column]))
        return f"{mean:.4f}" if row is rows[0] else f"{mean - of_first:+.4f}"

    columns = ("with_source", "without_source")
    header = ("number", "is", "with a source", "without")
    return markdown_table(
        header, [(r["name"], r["value"], *(cell(r, column) for column in columns)) for r in rows]
    )


if __name__ == "__main__":
    main()
