"""The pictures of a cleaning, each with what to look at."""

from pathlib import Path

from facetrain.data.cleaned_set import CleanedSet
from facetrain.report.cleaning import Cleaning
from facetrain.report.dropped import draw_dropped_faces
from facetrain.report.moved import draw_moved_faces
from facetrain.report.noise_pictures import draw_class_noise, draw_clean_probability
from facetrain.report.pictures import Picture
from facetrain.report.sheets import Image

_FACE_SIZE = 112  # pixels
_PROBABILITY = (
    "How sure the cleaner is. Good: nearly all images lie at the two ends (counts are on a "
    "logarithmic scale). Bad: a hill in the middle. A class without a majority is left as it is: "
    "its images lie at 0.5, its threshold at 0."
)
_CLASSES = (
    "Noise by class, a circle for classes with the same shares (a large one for many). Good: on "
    "the line. Below it noise of the class was missed, above it the class lost clean images."
)
_DROPPED = (
    "The classes that lost most: on the left who they are, on the right what fell below the "
    "threshold, from the surest to the most doubtful (p is the clean probability), each followed "
    "by the identity it seems to be. Good: none of them looks like the kept. Those on the right "
    "end of a row are worth a second look."
)
_MOVED = (
    "Images that got another label: the image, faces of the class it came from, faces of the class "
    "it went to; the surest above. Good: it looks like the right half of its row and not like the "
    "left."
)


def draw_cleaning(
    cleaning: Cleaning, moves: bool, cleaned: CleanedSet | None, folder: Path, suffix: str
) -> list[Picture]:
    """Draw how sure the cleaner was, what it dropped and what it moved.

    Args:
        cleaning: what was decided.
        moves: whether suggestions were applied.
        cleaned: the same with its data set, for the faces; None where that is not here.
        folder: for the PNGs.
        suffix: of their names.
    """
    is_clean = None if cleaned is None else cleaned.is_clean
    path = folder / f"clean_probability{suffix}.png"
    draw_clean_probability(path, cleaning.clean_probability, cleaning.threshold, is_clean)
    truth = " Noise on the right was missed, clean images on the left were dropped wrongly."
    caption = _PROBABILITY + (truth if is_clean is not None else "")
    pictures = [Picture(path, caption, "cleaning", width="half")]
    if cleaned is None:
        return pictures
    if is_clean is not None:
        path = folder / f"class_noise{suffix}.png"
        draw_class_noise(path, cleaned.dataset.label, cleaning.kept, is_clean)
        pictures.append(Picture(path, _CLASSES, "cleaning", width="half"))
    return pictures + _draw_faces(cleaned, moves, folder, suffix)


def _draw_faces(cleaned: CleanedSet, moves: bool, folder: Path, suffix: str) -> list[Picture]:
    """The sheets of dropped and of moved images."""
    dataset, is_clean = cleaned.dataset, cleaned.is_clean
    cleaning = Cleaning.of(cleaned.result, cleaned)

    def decode(image: int) -> Image:
        return dataset.decode(image, _FACE_SIZE)

    of = (cleaning, dataset.label, dataset.class_ids, decode)
    pictures = []
    sheet = folder / f"dropped{suffix}.png"
    if draw_dropped_faces(sheet, *of, is_clean):
        frames = " Green frame: noise indeed. Red: the label was right."
        caption = _DROPPED + (frames if is_clean is not None else "")
        pictures.append(Picture(sheet, caption, "cleaning", photo=True))
    sheet = folder / f"moved{suffix}.png"
    if moves and draw_moved_faces(sheet, *of, cleaned.is_right(cleaned.suggested)):
        frames = " Green frame: this is who it is. Red: it is somebody else."
        caption = _MOVED + (frames if is_clean is not None else "")
        pictures.append(Picture(sheet, caption, "cleaning", photo=True))
    return pictures
