"""The pictures of a training, finished or under way, each with what to look at."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.run_folder import LOG_FILE
from facetrain.data.cleaned_set import Bools, Ints, class_place, data_of_stage, read_true_label
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.sample_history import SampleHistory, read_samples
from facetrain.data.variation.labels import VARIATION_FILE, Variations, load_variations
from facetrain.engine.meter import read_run_log
from facetrain.report.run import Run, Stage
from facetrain.report.style import Gallery
from facetrain.report.training_figures import (
    alpha_beta_figure,
    confidence_figure,
    confusion_figure,
    long_tails_figure,
    margin_by_level_figure,
    margin_faces_figure,
    training_curves_figure,
    weight_figure,
)

_MOST_EPOCHS = 12  # a training on millions of images keeps tens of megabytes an epoch
_WEIGHTS = {
    "superloss": "SuperLoss: confidence of each image",
    "nal": "NAL: gate of each image's label",
}
_CAPTIONS = {
    "training": "loss, learning rate and accuracy by step. Good: the loss falls as long as the "
    "learning rate does (it may rise while the margin does), and accuracy rises. Bad: a loss that "
    "jumps, or an accuracy that falls while the loss does - then it learns the noise.",
    "weights": "how the weights are distributed, epoch by epoch. Good: most images at one high "
    "weight and a small group that parts from them. Bad: everything slides to the left, so that "
    "the method unlearns the hard images.",
    "weights by truth": "how the weights are distributed, epoch by epoch. Good: noise slides to "
    "the left while clean images stay on the right. Bad: the two lie on each other, so that what "
    "is taken from the noise is taken from everyone.",
    "alpha_beta": "mean weight of the given label (alpha) and of the model's own guess (beta). "
    "Good: alpha of noise well below alpha of clean images, and beta the other way round.",
    "confusion": "estimated labels in the last epoch, for the largest classes; a row sums to 1. "
    "Good: a darker diagonal than the given labels have. Bad: columns that draw from many rows, "
    "classes that swallow others.",
    "superloss": "the confidence that SuperLoss gives at a loss, at the lambda of this training "
    "(bold) and others: a large lambda weighs all alike, a small one trusts only what is easy.",
    "margins": "the margin of each image, epoch by epoch. Good: it spreads within its bounds, hard "
    "variations to one side. Bad: everything heaps up at a bound.",
    "margin_levels": "the learned part of the margins by level of each variation, over the level's "
    "share of the images; bars are two standard errors. Good: rare levels, on the left, get more.",
    "margin_faces": "faces from the smallest margin to the largest, for each variation. Good: they "
    "grow harder to the right.",
    "long_tails": "how unevenly the images are spread over identities and over each variation.",
}


class _Training:
    """Draws what one training left."""

    def __init__(self, run: Run, stage: Stage, gallery: Gallery) -> None:
        self.stage, self.gallery, self.run = stage, gallery, run
        self.config: dict[str, Any] = dict(stage.manifest["config"]) if stage.manifest else {}

    def add(self, name: str, figure: Any, caption: str = "", **kind: Any) -> None:
        """Save a figure, if there is one."""
        so_far = "" if self.stage.artifact else ", so far"
        text = f"{self.stage.name}{so_far}: {_CAPTIONS[caption or name]}"
        self.gallery.add(f"{name}{self.stage.file_suffix}", figure, text, "training", **kind)

    def draw(self) -> None:
        """Its curves, and what its method gave to every image."""
        curves = training_curves_figure(read_run_log(self.stage.path / LOG_FILE))
        self.add("training", curves, width="half")
        records = read_samples(self.stage.path, _MOST_EPOCHS)
        if not records:
            return
        # An unfinished training does not say what it trains on.
        data = None if self.stage.artifact is None else data_of_stage(self.stage.artifact)
        dataset = self.run.given if data == self.run.data else self.run.dataset(data)
        if dataset is not None and any(
            one.values.shape[1] != dataset.num_images for one in records.values()
        ):
            dataset = None
        true_label = read_true_label(dataset, data.overlay) if dataset and data else None
        self.draw_weights(records, dataset, true_label)
        if self.stage.kind == "finetune" and "margin" in records:
            self.draw_margins(records, data, dataset)

    def draw_weights(
        self,
        records: dict[str, SampleHistory],
        dataset: FaceDataset | None,
        true_label: Ints | None,
    ) -> None:
        """The weights, estimated labels and two-fold weights that a robust loss kept."""
        is_clean: Bools | None = None
        if dataset is not None and true_label is not None:
            is_clean = dataset.class_ids[dataset.label] == true_label
        robust = self.config.get("robust") or {}
        if "weight" in records:
            of, title = (
                records["weight"],
                _WEIGHTS.get(str(robust.get("name")), "weight of each image"),
            )
            figure = weight_figure(of.values, is_clean, title, of.epochs)
            caption = "weights" if is_clean is None else "weights by truth"
            self.add("weights", figure, caption, width="wide")
        if "alpha" in records and "beta" in records:
            alpha, beta = records["alpha"], records["beta"]
            figure = alpha_beta_figure(alpha.values, beta.values, is_clean, alpha.epochs)
            self.add("alpha_beta", figure, width="wide")
        if "estimated_label" in records and dataset is not None:
            shown = _Labels.of(records["estimated_label"].values[-1], dataset, true_label)
            if len(shown.given):
                self.add("confusion", confusion_figure(*shown), width="wide")
        if robust.get("lam") is not None and "weight" in records:
            self.add("superloss", confidence_figure(robust["lam"]), width="wide")

    def draw_margins(
        self,
        records: dict[str, SampleHistory],
        data: DataConfig | None,
        dataset: FaceDataset | None,
    ) -> None:
        """The margins of a fine-tuning, and by what they vary where that is known."""
        margin, residual = records["margin"], records["residual"]
        figure = weight_figure(margin.values, None, "margin of each image", margin.epochs)
        self.add("margins", figure, width="wide")
        given = (self.config.get("finetune") or {}).get("variation")
        variations = None if data is None else _read_variations(given, data.folder, dataset)
        if dataset is None or variations is None:
            return
        self.add("margin_levels", margin_by_level_figure(variations, residual.values[-1]))
        faces = margin_faces_figure(dataset, variations, margin.values[-1])
        self.add("margin_faces", faces, photo=True)
        self.add("long_tails", long_tails_figure(dataset.label, variations))


def _read_variations(
    given: str | None, shards: Path, dataset: FaceDataset | None
) -> Variations | None:
    """Those of a training set's images, from its file `given` or beside `shards`; None for none."""
    file = Path(given) if given else shards / VARIATION_FILE
    if dataset is None or not file.is_file():
        return None
    return load_variations(file, dataset.num_rows).take(dataset.row)


def draw_training(run: Run, stage: Stage, gallery: Gallery) -> None:
    """Draw the pictures of a training or fine-tuning of a run."""
    _Training(run, stage, gallery).draw()


class _Labels(NamedTuple):
    """Of the images that have an estimate and whose identity is in the set, from 0 up."""

    given: Ints
    estimated: Ints
    true: Ints | None

    @classmethod
    def of(
        cls, estimated: NDArray[Any], dataset: FaceDataset, true_label: Ints | None
    ) -> "_Labels":
        shown, true = np.isfinite(estimated), None
        if true_label is not None:
            place = class_place(dataset.class_ids, true_label)
            shown &= place >= 0
            true = place[shown]
        return cls(dataset.label[shown], estimated[shown].astype(np.int64), true)
