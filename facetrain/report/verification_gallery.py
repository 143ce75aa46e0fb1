"""The pictures of a run's evaluations, each with what to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facetrain.core.artifact import Artifact
from facetrain.core.config import parse_config
from facetrain.core.run_folder import EVALUATE_RETRAIN, ROC_FILE
from facetrain.data.paired_faces import FolderSet, PairedFaces
from facetrain.data.verification_bin import VerificationSet
from facetrain.metrics.verification import Bools, Floats
from facetrain.report.comparison import compare, in_order, trained_on
from facetrain.report.curve import Curve
from facetrain.report.pictures import Picture
from facetrain.report.sheets import draw_hardest_pairs
from facetrain.report.subgroup_pictures import draw_all_subgroups
from facetrain.report.verification_pictures import draw_det, draw_fold_accuracy, draw_roc

_ROC = (
    "ROC: how many pairs of one person are accepted, for each rate of false accepts. Good: high, "
    "and flat to the left, where a product works. Bad: a cliff at small rates."
)
_DET = (
    "DET: the same errors on normal-quantile axes, where good models stay apart. Good: low and "
    "to the left; it crosses the diagonal at the equal error rate. A curve that bends upwards on "
    "the left has impostors that it takes for the same person."
)
_FOLDS = (
    "Accuracy of each fold. Good: dots close together, and bars of two trainings that do not "
    "overlap; where they do, what one gains on the other may be chance."
)
_SUBGROUPS = (
    "By subgroup, at thresholds that all pairs together chose, with 95 % intervals; below the line "
    "pairs across two levels. Good: intervals that meet, and a false accept rate near the one "
    "aimed at. Bad: a group that is accepted wrongly far more often than the others."
)


def _read_distances(stage: Artifact) -> dict[str, tuple[Floats, Bools]]:
    sets = {}
    for name in stage.metrics:
        with np.load(stage.path / "distances" / f"{name}.npz", allow_pickle=False) as arrays:
            sets[name] = (arrays["distance"], arrays["same"])
    return sets


def _name(name: str, stage: Artifact, among: int) -> str:
    return f"{name}, {trained_on(stage.path)}" if among > 1 else name


def draw_evaluations(stages: Sequence[Artifact], folder: Path) -> list[Picture]:
    """Draw the errors of all evaluations, and the hardest pairs for the run's own model.

    Args:
        stages: the finished stages of a run.
        folder: for the PNGs.
    """
    evaluations, ijb = in_order(stages), in_order(stages, "ijb")
    curves: dict[str, Curve] = {}
    for stage in evaluations:
        for name, (distance, same) in _read_distances(stage).items():
            curve = Curve.of(distance, same)
            if curve is not None:
                curves[_name(name, stage, len(evaluations))] = curve
    for stage in ijb:
        for name, one in stage.metrics.items():
            pairs = one["num_pairs"], one["num_impostor_pairs"]
            curves[_name(name, stage, len(ijb))] = Curve.read(stage.path / ROC_FILE, *pairs)
    pictures = []
    if draw_roc(folder / "roc.png", curves):
        pictures.append(Picture(folder / "roc.png", _ROC, "verification", width="half"))
    if draw_det(folder / "det.png", curves):
        pictures.append(Picture(folder / "det.png", _DET, "verification", width="half"))
    if draw_fold_accuracy(folder / "folds.png", compare(stages)):
        pictures.append(Picture(folder / "folds.png", _FOLDS, "verification"))
    own = [stage for stage in evaluations if stage.path.name == EVALUATE_RETRAIN]
    for stage in (own or evaluations)[-1:]:
        pictures += [
            Picture(path, _SUBGROUPS, "verification")
            for path in draw_all_subgroups(folder, stage.metrics)
        ]
        pictures += _draw_hardest(stage, folder)
    return pictures


def _open_sets(stage: Artifact) -> dict[str, VerificationSet | PairedFaces]:
    """Name -> the images of each set of pairs that is still here."""
    config = stage.manifest["config"]
    sets: dict[str, VerificationSet | PairedFaces] = {
        path.stem: VerificationSet.open(path)
        for path in map(Path, config["bins"])
        if path.is_file()
    }
    for section in config.get("folders", ()):
        where = f"{stage.path / 'manifest.json'}: folders"
        folder = parse_config(FolderSet, section, where)
        if folder.images.is_dir() and folder.pair_list.exists():
            sets[folder.name] = PairedFaces.open(folder)
    return sets


def _draw_hardest(stage: Artifact, folder: Path) -> list[Picture]:
    """The hardest pairs of each set that is still here."""
    pictures, measured = [], _read_distances(stage)
    for name, pairs in _open_sets(stage).items():
        if not stage.metrics[name]["fold_threshold"]:  # pairs of one kind only
            continue
        threshold = float(np.mean(stage.metrics[name]["fold_threshold"]))
        picture = folder / f"hardest_{name}.png"
        distance, _ = measured[name]
        draw_hardest_pairs(picture, pairs, distance, threshold)
        caption = (
            f"{name}: the pairs the model finds hardest; red ones are judged wrongly at "
            f"cosine {1 - threshold / 2:.2f}, the mean threshold of the folds. Good: you would "
            "hesitate, too. Bad: a pair that is plain to see, or a wrong label in the set."
        )
        pictures.append(Picture(picture, caption, "verification", photo=True))
    return pictures
