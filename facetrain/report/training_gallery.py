"""The pictures of a training, finished or under way, each with what to look at."""

from pathlib import Path
from typing import Any

from facetrain.core.run_folder import LOG_FILE, SAMPLES
from facetrain.data.cleaned_set import data_of_stage
from facetrain.engine.meter import read_run_log
from facetrain.report.margin_gallery import draw_margins, read_variations
from facetrain.report.pictures import Picture, draw_training_curves
from facetrain.report.run import Run
from facetrain.report.sample_pictures import draw_sample_pictures
from facetrain.report.stages import Stage

_CURVES = (
    "{name}{so_far}: loss, learning rate and accuracy by step. Good: the loss falls as long as the "
    "learning rate does (it may rise while the margin does), and accuracy rises. Bad: a loss that "
    "jumps, or an accuracy that falls while the loss does - then it learns the noise."
)


def draw_training(run: Run, stage: Stage, folder: Path) -> list[Picture]:
    """Draw its curves, and what its method gave to every image.

    Args:
        run: which it belongs to.
        stage: a training or fine-tuning.
        folder: for the PNGs.
    """
    pictures = []
    curves = folder / f"training{stage.file_suffix}.png"
    if draw_training_curves(curves, read_run_log(stage.path / LOG_FILE)):
        so_far = "" if stage.artifact else ", so far"
        caption = _CURVES.format(name=stage.name, so_far=so_far)
        pictures.append(Picture(curves, caption, "training", width="half"))
    if (stage.path / SAMPLES).is_dir():
        pictures += _draw_samples(run, stage, folder)
    return pictures


def _draw_samples(run: Run, stage: Stage, folder: Path) -> list[Picture]:
    """Weights, labels and margins; an unfinished training does not say what it trains on."""
    data = None if stage.artifact is None else data_of_stage(stage.artifact)
    dataset = run.given if data == run.data else run.dataset(data)
    config: dict[str, Any] = dict(stage.manifest["config"]) if stage.manifest else {}
    robust = config.get("robust") or {}
    pictures = draw_sample_pictures(
        stage.path,
        stage.name,
        robust.get("name"),
        robust.get("lam"),
        dataset,
        run.true_label(dataset, data),
        folder,
        stage.file_suffix,
    )
    if stage.kind == "finetune" and data is not None:
        given = (config.get("finetune") or {}).get("variation")
        variations = read_variations(given, data.folder, dataset)
        pictures += draw_margins(
            stage.path, stage.name, dataset, variations, folder, stage.file_suffix
        )
    return pictures
