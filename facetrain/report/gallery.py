"""All pictures of a run, each with what to look at in it and the section it belongs to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.artifact import Artifact
from facetrain.core.config import parse_config
from facetrain.core.run_folder import DISTANCES, EVALUATE_RETRAIN, PICTURES, ROC_FILE
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.evaluation.paired_faces import FolderSet, PairedFaces
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.metrics.verification import Bools, Floats
from facetrain.report.class_sizes import class_sizes_figure
from facetrain.report.cleaning import calibration
from facetrain.report.cleaning_figures import (
    Faces,
    class_noise_figure,
    clean_probability_figure,
    reliability_figure,
    sheet_figure,
)
from facetrain.report.run import Run
from facetrain.report.style import Gallery, Picture
from facetrain.report.tables import compare, evaluations_of, trained_on
from facetrain.report.training_gallery import draw_training
from facetrain.report.verification_figures import (
    Curve,
    det_figure,
    fold_figure,
    hardest_pairs_figure,
    roc_figure,
    subgroup_figure,
)

_SIZES = (
    "How many images the identities have. A long tail (a few large classes, many tiny ones) is "
    "how collected sets look; classes of one or two images teach little, and a cleaner can say "
    "nothing of them. Good: cleaning takes from all classes alike. Bad: it empties the small ones."
)
_FACE_SIZE = 112  # pixels
_PROBABILITY = (
    "How sure the cleaner is. Good: nearly all images lie at the two ends (counts are on a "
    "logarithmic scale). Bad: a hill in the middle."
)
_PROBABILITY_BY_TRUTH = (
    " Noise on the right was missed, clean images on the left were dropped wrongly."
)
_CLASSES = (
    "Noise by class, a circle for classes with the same shares (a large one for many). Good: on "
    "the line. Below it noise of the class was missed, above it the class lost clean images."
)
_RELIABILITY = (
    "Whether the probabilities are what they say: of the images at 0.8, 80 % should have the right "
    "label. Good: on the line. Below it the cleaner is too sure of labels, above it too doubtful; "
    "points of few images may lie anywhere."
)
_SHEETS = {
    "wrong_labels": "Images of another identity: the image (p: that it belongs there), the "
    "identity it is labelled as, the identity that it belongs to; the surest above. Good: it looks "
    "like the right half of its row and not like the left.",
    "swaps": "Two identities that have an image of each other: in the middle the image in the left "
    "one, and the one in the right one. Good: they should change places. The review does so by "
    "one key.",
    "merges": "Identities that seem to be one person under two names, the largest first. Good: the "
    "two halves of a row are one person. Nothing acts on it until you merge them in the review.",
    "dropped": "The identities that lost most: on the left who they are, on the right what was "
    "dropped, from the surest to the most doubtful, with the clean probability and the reason. "
    "Good: none of them looks like the kept. The right end of a row is worth a second look.",
    "hard": "Hard images that were kept: far from their identity, but nearer to it than to any "
    "other, the least probable above. Good: it is the person of its row.",
}
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


def draw_run(run: Run) -> list[Picture]:
    """Draw every picture of a run into its folder `pictures`."""
    gallery = Gallery(run.folder / PICTURES)
    if run.sizes:
        gallery.add("class_sizes", class_sizes_figure(run.sizes), _SIZES, "data")
    for stage in run.stages:
        if stage.is_training:
            draw_training(run, stage, gallery)
    _draw_cleanings(run, gallery)
    _draw_evaluations(run.finished, gallery)
    return gallery.pictures


def _draw_cleanings(run: Run, gallery: Gallery) -> None:
    """Of all rounds; where there are several, captions say which it is."""
    stages = [stage for stage in run.stages if stage.kind == "clean" and stage.artifact]
    for stage in stages:
        cleaned, suffix = run.cleaned.get(stage.name), stage.file_suffix
        which = f"{stage.name}: " if len(stages) > 1 else ""
        result = run.result(stage)
        is_clean = None if cleaned is None else cleaned.is_clean
        figure = clean_probability_figure(result.clean_probability, result.threshold, is_clean)
        caption = which + _PROBABILITY + (_PROBABILITY_BY_TRUTH if is_clean is not None else "")
        gallery.add(f"clean_probability{suffix}", figure, caption, "cleaning", width="half")
        if cleaned is not None:
            _draw_cleaned(cleaned, gallery, which, suffix)


def _draw_cleaned(cleaned: CleanedSet, gallery: Gallery, which: str, suffix: str) -> None:
    """How right a cleaning was, where that is known, and sheets of faces."""
    is_clean = cleaned.is_clean
    if is_clean is not None:
        noise = class_noise_figure(cleaned.dataset.label, cleaned.result.kept, is_clean)
        gallery.add(f"class_noise{suffix}", noise, which + _CLASSES, "cleaning", width="half")
    if (found := calibration(cleaned)) is not None:
        figure, caption = reliability_figure(found), which + _RELIABILITY
        gallery.add(f"reliability{suffix}", figure, caption, "cleaning", width="half")
    frames = "" if is_clean is None else " Green frame: the cleaner is right. Red: it is wrong."
    for name, sheet in Faces(cleaned).sheets():
        figure = sheet_figure(sheet, lambda image: cleaned.dataset.decode(image, _FACE_SIZE))
        caption = which + _SHEETS[name] + ("" if name == "merges" else frames)
        gallery.add(f"{name}{suffix}", figure, caption, "cleaning", photo=True)


def _read_distances(stage: Artifact) -> dict[str, tuple[Floats, Bools]]:
    sets = {}
    for name in stage.metrics:
        with np.load(stage.path / DISTANCES / f"{name}.npz", allow_pickle=False) as arrays:
            sets[name] = (arrays["distance"], arrays["same"])
    return sets


def _name(name: str, stage: Artifact, among: int) -> str:
    return f"{name}, {trained_on(stage.path)}" if among > 1 else name


def _draw_evaluations(stages: Sequence[Artifact], gallery: Gallery) -> None:
    """The errors of all evaluations, and the hardest pairs for the run's own model."""
    evaluations, ijb = evaluations_of(stages), evaluations_of(stages, "ijb")
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
    gallery.add("roc", roc_figure(curves), _ROC, "verification", width="half")
    gallery.add("det", det_figure(curves), _DET, "verification", width="half")
    gallery.add("folds", fold_figure(compare(stages)), _FOLDS, "verification")
    own = [stage for stage in evaluations if stage.path.name == EVALUATE_RETRAIN]
    for stage in (own or evaluations)[-1:]:
        draw_subgroups(stage.metrics, gallery)
        _draw_hardest(stage, gallery)


def draw_subgroups(numbers: Mapping[str, Mapping[str, Any]], gallery: Gallery) -> None:
    """Draw each attribute of each set of `verification.json`: `subgroups_<set>_<attribute>.png`."""
    for name, values in numbers.items():
        for attribute, subgroups in values.get("subgroups", {}).items():
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in attribute)
            figure = subgroup_figure(f"{name} by {attribute} (pairs)", subgroups)
            gallery.add(f"subgroups_{name}_{safe}", figure, _SUBGROUPS, "verification")


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


def _draw_hardest(stage: Artifact, gallery: Gallery) -> None:
    """The hardest pairs of each set that is still here."""
    measured = _read_distances(stage)
    for name, pairs in _open_sets(stage).items():
        if not stage.metrics[name]["fold_threshold"]:  # pairs of one kind only
            continue
        threshold = float(np.mean(stage.metrics[name]["fold_threshold"]))
        figure = hardest_pairs_figure(pairs, measured[name][0], threshold)
        caption = (
            f"{name}: the pairs the model finds hardest; red ones are judged wrongly at "
            f"cosine {1 - threshold / 2:.2f}, the mean threshold of the folds. Good: you would "
            "hesitate, too. Bad: a pair that is plain to see, or a wrong label in the set."
        )
        gallery.add(f"hardest_{name}", figure, caption, "verification", photo=True)
