"""All pictures of a run, each with what to look at in it and the section it belongs to."""

import dataclasses
from pathlib import Path

from facetrain.core.run_folder import PICTURES
from facetrain.report.class_sizes import draw_class_sizes
from facetrain.report.cleaning import Cleaning
from facetrain.report.cleaning_gallery import draw_cleaning
from facetrain.report.pictures import Picture
from facetrain.report.run import Run
from facetrain.report.training_gallery import draw_training
from facetrain.report.verification_gallery import draw_evaluations

_SIZES = (
    "How many images the identities have. A long tail (a few large classes, many tiny ones) is "
    "how collected sets look; classes of one or two images teach little, and a cleaner can say "
    "nothing of them. Good: cleaning takes from all classes alike. Bad: it empties the small ones."
)


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
        assert stage.artifact is not None
        moves = bool(stage.artifact.manifest["config"].get("apply_suggestions"))
        cleaned = run.cleaned.get(stage.name)
        cleaning = (
            Cleaning.read(stage.artifact)
            if cleaned is None
            else Cleaning.of(cleaned.result, cleaned)
        )
        drawn = draw_cleaning(cleaning, moves, cleaned, folder, stage.file_suffix)
        of_which = f"{stage.name}: " if len(stages) > 1 else ""
        pictures += [dataclasses.replace(one, caption=of_which + one.caption) for one in drawn]
    return pictures
