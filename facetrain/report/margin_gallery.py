"""The pictures of a fine-tuning with learned margins: `samples/` of the stage `finetune`."""

from pathlib import Path

from facetrain.data.dataset import FaceDataset
from facetrain.data.variation import VARIATION_FILE, Variations, load_variations
from facetrain.report.mvcom_pictures import (
    draw_long_tails,
    draw_margin_by_level,
    draw_margin_faces,
)
from facetrain.report.pictures import Picture
from facetrain.report.robust_pictures import draw_weights_over_training
from facetrain.report.sample_pictures import read_records

_MARGINS = (
    "{name}: the margin of each image, epoch by epoch. Good: it spreads within its bounds, hard "
    "variations to one side. Bad: everything heaps up at a bound."
)
_LEVELS = (
    "{name}: the learned part of the margins by level of each variation, over the level's share "
    "of the images; bars are two standard errors. Good: rare levels, on the left, get more."
)
_FACES = (
    "{name}: faces from the smallest margin to the largest, for each variation. Good: they grow "
    "harder to the right."
)
_TAILS = "{name}: how unevenly the images are spread over identities and over each variation."


def read_variations(
    given: str | None, beside: Path, dataset: FaceDataset | None
) -> Variations | None:
    """The variation labels of a training set's images, or None where there are none.

    Args:
        given: `finetune.variation` of its config.
        beside: the folder of its shards.
        dataset: the set, where it is here.
    """
    file = Path(given) if given else beside / VARIATION_FILE
    if dataset is None or not file.is_file():
        return None
    return load_variations(file, dataset.num_rows).take(dataset.row)


def draw_margins(
    stage: Path,
    name: str,
    dataset: FaceDataset | None,
    variations: Variations | None,
    folder: Path,
    suffix: str,
) -> list[Picture]:
    """Draw the margins of a fine-tuning, and by what they vary where that is known.

    Args:
        stage: its folder.
        name: what to call it in captions.
        dataset: what it was trained on, where that is here.
        variations: of its images, where they are known.
        folder: for the PNGs.
        suffix: of their names.
    """
    records = read_records(stage)
    if "margin" not in records:
        return []
    margin, residual = records["margin"], records["residual"]
    path = folder / f"margins{suffix}.png"
    draw_weights_over_training(path, margin.values, None, "margin of each image", margin.epochs)
    pictures = [Picture(path, _MARGINS.format(name=name), "training", width="wide")]
    if dataset is None or variations is None or dataset.num_images != margin.values.shape[1]:
        return pictures
    path = folder / f"margin_levels{suffix}.png"
    draw_margin_by_level(path, variations, residual.values[-1])
    pictures.append(Picture(path, _LEVELS.format(name=name), "training"))
    path = folder / f"margin_faces{suffix}.png"
    draw_margin_faces(path, dataset, variations, margin.values[-1])
    pictures.append(Picture(path, _FACES.format(name=name), "training", photo=True))
    path = folder / f"long_tails{suffix}.png"
    draw_long_tails(path, dataset.label, variations)
    pictures.append(Picture(path, _TAILS.format(name=name), "training"))
    return pictures
