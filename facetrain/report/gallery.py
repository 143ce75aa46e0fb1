"""All pictures of a run, each with what to look at in it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facetrain.core.artifact import Artifact, read_artifact
from facetrain.core.config import parse_config
from facetrain.core.errors import DataError
from facetrain.data.dataset import DataConfig
from facetrain.data.verification_bin import VerificationSet
from facetrain.engine.meter import read_run_log
from facetrain.metrics.verification import Bools, Floats
from facetrain.report.cleaning import CleanedSet, Cleaning
from facetrain.report.comparison import EVALUATE_RETRAIN, LABELS
from facetrain.report.dropped import draw_dropped_faces
from facetrain.report.noise_pictures import draw_class_noise, draw_clean_probability
from facetrain.report.pictures import draw_roc, draw_training_curves
from facetrain.report.sheets import draw_hardest_pairs

_FACE_SIZE = 112  # pixels


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG of a run and what it shows."""

    path: Path
    caption: str


def finished_stages(run_dir: Path) -> list[Artifact]:
    """The finished stages of a run, or the one stage whose folder this is, oldest first.

    Raises:
        DataError: there is none.
    """
    folders = [run_dir, *sorted(path for path in run_dir.glob("*") if path.is_dir())]
    stages = [artifact for folder in folders if (artifact := read_artifact(folder)) is not None]
    if not stages:
        raise DataError(
            f"{run_dir}: must be the --out folder of a run or a stage, but no finished stage "
            "(manifest.json) is there; give another folder, or start the run again to finish it"
        )
    return sorted(stages, key=lambda stage: (stage.path / "manifest.json").stat().st_mtime_ns)


def open_cleaned(stage: Artifact | None, stages: Sequence[Artifact]) -> CleanedSet | None:
    """What a stage `clean` of a run decided, or None where its data set is not known or not here.

    The data set is that of the run's folder `train`, whose labels were cleaned.
    """
    train = next((one for one in stages if one.path.name == "train"), None)
    if stage is None or train is None:
        return None
    manifest = train.path / "manifest.json"
    data = parse_config(DataConfig, train.manifest["config"]["data"], f"{manifest}: data")
    if not all(path.exists() for path in (data.path, *data.overlay)):
        return None
    return CleanedSet.open(stage, data)


def _suffix(stage: Artifact, run_dir: Path) -> str:
    """What tells the pictures of a further training or cleaning from those of the first."""
    usual = (run_dir, run_dir / str(stage.manifest["stage"]))
    return "" if stage.path in usual else f"_{stage.path.name}"


def _draw_training(stage: Artifact, curves: Path) -> list[Picture]:
    if not draw_training_curves(curves, read_run_log(stage.path / "log.jsonl")):
        return []
    caption = f"Training ({stage.path.name}): loss, learning rate and accuracy by step."
    return [Picture(curves, caption)]


def _draw_cleaning(
    stage: Artifact, cleaned: CleanedSet | None, folder: Path, suffix: str
) -> list[Picture]:
    path = folder / f"clean_probability{suffix}.png"
    cleaning = Cleaning.read(stage)
    is_clean = None if cleaned is None else cleaned.is_clean
    draw_clean_probability(path, cleaning.clean_probability, cleaning.threshold, is_clean)
    caption = (
        "How sure the cleaner is: good when nearly all images lie at the ends and few between "
        "(counts are on a logarithmic scale). A class without a majority is left as it is: its "
        "images lie at 0.5, its threshold at 0."
    )
    if is_clean is not None:
        caption += " Noise on the right was missed, clean images on the left were dropped wrongly."
    pictures = [Picture(path, caption)]
    if cleaned is None:
        return pictures
    dataset, sheet = cleaned.dataset, folder / f"dropped{suffix}.png"
    if draw_dropped_faces(
        sheet,
        cleaning,
        dataset.label,
        dataset.class_ids,
        lambda image: dataset.decode(image, _FACE_SIZE),
        is_clean,
    ):
        caption = (
            "The classes that lost most: on the left who they are, on the right what was dropped, "
            "from the surest to the most doubtful (p is the clean probability), each followed by "
            "the identity it seems to be. The dropped should not look like the kept; those on the "
            "right end of a row are worth a second look."
        )
        if is_clean is not None:
            caption += " Green: noise indeed. Red: the label was right."
        pictures.append(Picture(sheet, caption))
    if is_clean is not None:
        path = folder / f"class_noise{suffix}.png"
        draw_class_noise(path, dataset.label, cleaning.kept, is_clean)
        pictures.append(
            Picture(
                path,
                "Noise by class: a circle below the line is a class whose noise was missed, one "
                "above it a class that lost clean images; a large circle stands for many classes.",
            )
        )
    return pictures


def _read_distances(stage: Artifact) -> dict[str, tuple[Floats, Bools]]:
    sets = {}
    for name in stage.metrics:
        with np.load(stage.path / "distances" / f"{name}.npz", allow_pickle=False) as arrays:
            sets[name] = (arrays["distance"], arrays["same"])
    return sets


def _draw_evaluations(stages: Sequence[Artifact], folder: Path) -> list[Picture]:
    """One ROC of all evaluations, and the hardest pairs for the run's own model."""
    labels = {stage.path.name: LABELS.get(stage.path.name, "") for stage in stages}
    curves = {
        f"{name}, {labels[stage.path.name]}" if len(stages) > 1 else name: pairs
        for stage in stages
        for name, pairs in _read_distances(stage).items()
    }
    pictures = []
    if draw_roc(folder / "roc.png", curves):
        caption = "ROC: how many pairs of one person are accepted, for each rate of false accepts."
        pictures.append(Picture(folder / "roc.png", caption))
    own = [stage for stage in stages if stage.path.name == EVALUATE_RETRAIN]
    final = (own or stages)[-1]
    sets = _read_distances(final)
    for path in map(Path, final.manifest["config"]["bins"]):
        distance, _ = sets[path.stem]
        if not path.is_file():
            continue
        threshold = float(np.mean(final.metrics[path.stem]["fold_threshold"]))
        picture = folder / f"hardest_{path.stem}.png"
        draw_hardest_pairs(picture, VerificationSet.open(path), distance, threshold)
        pictures.append(
            Picture(
                picture,
                f"{path.stem}: the pairs the model finds hardest; red ones are judged wrongly at "
                f"cosine {1 - threshold / 2:.2f}, the mean threshold of the folds.",
            )
        )
    return pictures


def draw_pictures(run_dir: Path) -> list[Picture]:
    """Draw every picture of a run's finished stages into `run_dir/pictures`.

    Raises:
        DataError: no finished stage, or a data set that cannot be read.
    """
    folder = run_dir / "pictures"
    stages = finished_stages(run_dir)
    pictures, evaluations = [], []
    for stage in stages:
        kind, suffix = stage.manifest["stage"], _suffix(stage, run_dir)
        if kind == "train":
            pictures += _draw_training(stage, folder / f"training{suffix}.png")
        if kind == "clean":
            pictures += _draw_cleaning(stage, open_cleaned(stage, stages), folder, suffix)
        if kind == "evaluate":
            evaluations.append(stage)
    if evaluations:
        pictures += _draw_evaluations(evaluations, folder)
    return pictures
