"""The verification numbers of one run's trainings side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from facetrain.core.artifact import Artifact

EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE = "evaluate", "evaluate_retrain", "evaluate_true"
LABELS = {
    EVALUATE: "noisy labels",
    EVALUATE_RETRAIN: "cleaned labels",
    EVALUATE_TRUE: "true labels",
}
"""Folder of an evaluation in a run that cleans -> what its model was trained on."""


def compare(stages: Sequence[Artifact]) -> dict[str, Mapping[str, Any]]:
    """Verification numbers by set, or by set and training where there are several.

    The trainings of a set follow each other in the order of `LABELS`.

    Args:
        stages: the finished stages of a run; those that are no evaluation do not matter.
    """
    evaluations = [stage for stage in stages if stage.manifest["stage"] == "evaluate"]
    if len(evaluations) == 1:
        return dict(evaluations[0].metrics)
    by_folder = {stage.path.name: stage.metrics for stage in evaluations}
    found = {labels: by_folder[folder] for folder, labels in LABELS.items() if folder in by_folder}
    sets = dict.fromkeys(name for metrics in found.values() for name in metrics)
    return {
        f"{name}, {labels}": metrics[name]
        for name in sets
        for labels, metrics in found.items()
        if name in metrics
    }
