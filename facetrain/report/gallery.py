"""All pictures of a run, each with what to look at in it and the section it belongs to."""

import dataclasses
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from facetrain.core.run_folder import CLEAN_FILE, PICTURES
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import CleaningResult
from facetrain.report.class_sizes import draw_class_sizes
from facetrain.report.cleaning import calibration
from facetrain.report.cleaning_figures import (
    Faces,
    class_noise_figure,
    clean_probability_figure,
    reliability_figure,
    sheet_figure,
)
from facetrain.report.pictures import Picture, save_figure
from facetrain.report.run import Run
from facetrain.report.training_gallery import draw_training
from facetrain.report.verification_gallery import draw_evaluations

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


def draw_pictures(folder: Path) -> list[Picture]:
    """Draw every picture of a run into its folder `pictures`.

    Args:
        folder: of a run, or of one stage.

    Raises:
        DataError: no stage, or a data set that cannot be read.
    """
    return draw_run(Run(folder))


def draw_run(run: Run) -> list[Picture]:
    """Draw every picture of a run that is open."""
    folder = run.folder / PICTURES
    pictures = []
    if run.sizes:
        draw_class_sizes(folder / "class_sizes.png", run.sizes)
        pictures.append(Picture(folder / "class_sizes.png", _SIZES, "data"))
    for stage in run.stages:
        if stage.is_training:
            pictures += draw_training(run, stage, folder)
    pictures += _draw_cleanings(run, folder)
    return pictures + draw_evaluations(run.finished, folder)


def _draw_cleanings(run: Run, folder: Path) -> list[Picture]:
    """Of all rounds; where there are several, captions say which it is."""
    stages = [stage for stage in run.stages if stage.kind == "clean" and stage.artifact]
    pictures = []
    for stage in stages:
        cleaned = run.cleaned.get(stage.name)
        result = cleaned.result if cleaned else CleaningResult.load(stage.path / CLEAN_FILE)
        drawn = _draw_cleaning(result, cleaned, folder, stage.file_suffix)
        of_which = f"{stage.name}: " if len(stages) > 1 else ""
        pictures += [dataclasses.replace(one, caption=of_which + one.caption) for one in drawn]
    return pictures


def _draw_cleaning(
    result: CleaningResult, cleaned: CleanedSet | None, folder: Path, suffix: str
) -> list[Picture]:
    """How sure a cleaning was, how right, and sheets of faces where the data set is here."""
    is_clean, pictures = (None if cleaned is None else cleaned.is_clean), []

    def add(name: str, figure: Figure, caption: str, **kind: Any) -> None:
        path = folder / f"{name}{suffix}.png"
        save_figure(figure, path)
        pictures.append(Picture(path, caption, "cleaning", **kind))

    probabilities = result.clean_probability, result.threshold, is_clean
    truth = " Noise on the right was missed, clean images on the left were dropped wrongly."
    caption = _PROBABILITY + (truth if is_clean is not None else "")
    add("clean_probability", clean_probability_figure(*probabilities), caption, width="half")
    if cleaned is None:
        return pictures
    if is_clean is not None:
        noise = class_noise_figure(cleaned.dataset.label, result.kept, is_clean)
        add("class_noise", noise, _CLASSES, width="half")
    if (calibrated := calibration(cleaned)) is not None:
        add("reliability", reliability_figure(calibrated), _RELIABILITY, width="half")
    frames = "" if is_clean is None else " Green frame: the cleaner is right. Red: it is wrong."
    for name, sheet in Faces(cleaned).sheets():
        figure = sheet_figure(sheet, lambda image: cleaned.dataset.decode(image, _FACE_SIZE))
        framed = "" if name == "merges" else frames
        add(name, figure, _SHEETS[name] + framed, photo=True)
    return pictures
