"""The verification numbers of one run's trainings side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facetrain.core.artifact import Artifact
from facetrain.core.run_folder import EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE, round_of

LABELS = {
    EVALUATE: "noisy labels",
    EVALUATE_RETRAIN: "cleaned labels",
    EVALUATE_TRUE: "true labels",
}
"""Folder of an evaluation in a run that cleans -> what its model was trained on."""


def trained_on(path: Path) -> str:
    """What the model of the evaluation in this folder was trained on, in words."""
    number, name = round_of(path), _folder(path)
    return f"round {number}" if number else LABELS.get(name, name)


def _folder(path: Path) -> str:
    """The folder of an evaluation, that of IJB beside it included: `evaluate_retrain_ijbc`."""
    return path.name.removesuffix("_ijbb").removesuffix("_ijbc")


def _place(stage: Artifact) -> tuple[int, int]:
    """Noisy labels, the rounds, cleaned labels, true labels, whatever else there is."""
    number = round_of(stage.path)
    if number:
        return 1, number
    order, name = [EVALUATE, "", EVALUATE_RETRAIN, EVALUATE_TRUE], _folder(stage.path)
    return (order.index(name) if name in order else len(order)), 0


def in_order(stages: Sequence[Artifact], kind: str = "evaluate") -> list[Artifact]:
    """The evaluations of a run as they follow each other in tables and pictures."""
    return sorted((one for one in stages if one.manifest["stage"] == kind), key=_place)


def compare(stages: Sequence[Artifact], kind: str = "evaluate") -> dict[str, Mapping[str, Any]]:
    """Verification numbers by set, or by set and training where there are several.

    The trainings of a set follow each other: noisy labels, rounds, cleaned labels, true labels.

    Args:
        stages: the finished stages of a run; those that are no evaluation do not matter.
        kind: which evaluations: `evaluate` or `ijb`.
    """
    evaluations = in_order(stages, kind)
    if len(evaluations) == 1:
        return dict(evaluations[0].metrics)
    sets = dict.fromkeys(name for stage in evaluations for name in stage.metrics)
    return {
        f"{name}, {trained_on(stage.path)}": stage.metrics[name]
        for name in sets
        for stage in evaluations
        if name in stage.metrics
    }
