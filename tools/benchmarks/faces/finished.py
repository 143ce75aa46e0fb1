"""What a finished stage tells: its verification and the time it took."""

from pathlib import Path

from facetrain.core.artifact import read_artifact, read_json
from tools.benchmarks.faces.table import Numbers


def numbers(verified: Path) -> Numbers:
    """Accuracy, AUC and TAR at FAR 1e-3 of a finished evaluation."""
    (found,) = read_json(verified / "verification.json").values()
    tar = found["tar_at_far"]["1e-3"]  # None with fewer than a thousand pairs of others
    return {"accuracy": found["accuracy"], "auc": found["auc"]} | ({"tar": tar} if tar else {})


def seconds(stage: Path) -> float:
    """What a finished stage took."""
    artifact = read_artifact(stage)
    return float(artifact.manifest["seconds"]) if artifact else 0.0
