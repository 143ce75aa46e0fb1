"""Pictures of what a method gave to every image in each epoch: `samples/` of a training."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.run_folder import SAMPLES
from facetrain.data.cleaned_set import Bools, Ints
from facetrain.data.dataset import FaceDataset
from facetrain.report.pictures import Picture
from facetrain.report.robust_pictures import (
    draw_alpha_beta,
    draw_confidence_curve,
    draw_confusion,
    draw_weights_over_training,
)

_MOST_EPOCHS = 12  # a training on millions of images keeps tens of megabytes an epoch
_WEIGHTS = {
    "superloss": "SuperLoss: confidence of each image",
    "nal": "NAL: gate of each image's label",
}


class Record(NamedTuple):
    """One thing that was kept of every image, over epochs."""

    epochs: Ints  # (E,) counted from 1
    values: NDArray[np.float32]  # (E, N), NaN where an epoch did not visit the image


def read_records(stage: Path) -> dict[str, Record]:
    """Name -> what a training kept of its images, of twelve epochs at most, evenly spread."""
    files = sorted((stage / SAMPLES).glob("epoch_*.npz"))
    spread = np.linspace(0, len(files) - 1, min(_MOST_EPOCHS, len(files))).round().astype(int)
    found: dict[str, list[tuple[int, NDArray[np.float32]]]] = {}
    for path in (files[place] for place in spread):
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                found.setdefault(name, []).append((int(path.stem[6:]), arrays[name]))
    return {
        name: Record(np.array([e for e, _ in kept]), np.stack([values for _, values in kept]))
        for name, kept in found.items()
    }


def _weights_caption(name: str, knows_truth: bool) -> str:
    text = f"{name}: how the weights are distributed, epoch by epoch. "
    if knows_truth:
        return text + (
            "Good: noise slides to the left while clean images stay on the right. Bad: the two "
            "lie on each other, so that what is taken from the noise is taken from everyone."
        )
    return text + (
        "Good: most images at one high weight and a small group that parts from them. Bad: "
        "everything slides to the left, so that the method unlearns the hard images."
    )


def draw_sample_pictures(
    stage: Path,
    name: str,
    method: str | None,
    lam: float | None,
    dataset: FaceDataset | None,
    true_label: Ints | None,
    folder: Path,
    suffix: str,
) -> list[Picture]:
    """Draw the weights, estimated labels and two-fold weights that a training kept, if any.

    Args:
        stage: its folder.
        name: what to call it in captions.
        method: `robust.name` of its config, where that is known.
        lam: SuperLoss's lambda, of that method.
        dataset: what it was trained on, where that is known and of the same images.
        true_label: (N,) class ids, where they are known too.
        folder: for the PNGs.
        suffix: of their names.
    """
    records = read_records(stage)
    num_images = next((one.values.shape[1] for one in records.values()), 0)
    if dataset is not None and dataset.num_images != num_images:
        dataset = None
    is_clean: Bools | None = None
    if dataset is not None and true_label is not None:
        is_clean = dataset.class_ids[dataset.label] == true_label
    pictures = []

    def add(stem: str, caption: str) -> Path:
        path = folder / f"{stem}{suffix}.png"
        pictures.append(Picture(path, caption, "training", width="wide"))
        return path

    if "weight" in records:
        title = _WEIGHTS.get(method or "", "weight of each image")
        path = add("weights", _weights_caption(name, is_clean is not None))
        of = records["weight"]
        draw_weights_over_training(path, of.values, is_clean, title, of.epochs)
    if "alpha" in records and "beta" in records:
        alpha, beta = records["alpha"], records["beta"]
        caption = (
            f"{name}: mean weight of the given label (alpha) and of the model's own guess (beta). "
            "Good: alpha of noise well below alpha of clean images, and beta the other way round."
        )
        path = add("alpha_beta", caption)
        draw_alpha_beta(path, alpha.values, beta.values, is_clean, alpha.epochs)
    if "estimated_label" in records and dataset is not None:
        estimated = records["estimated_label"].values[-1]
        shown = _Labels.of(estimated, dataset, true_label)
        if len(shown.given):
            draw_confusion(add("confusion", _CONFUSION.format(name=name)), *shown)
    if lam is not None and "weight" in records:
        caption = (
            f"{name}: the confidence that SuperLoss gives at a loss, at the lambda of this "
            "training (bold) and others: a large lambda weighs all alike, a small one trusts "
            "only what is easy."
        )
        draw_confidence_curve(add("superloss", caption), lam)
    return pictures


_CONFUSION = (
    "{name}: estimated labels in the last epoch, for the largest classes; a row sums to 1. Good: "
    "a darker diagonal than the given labels have. Bad: columns that draw from many rows, classes "
    "that swallow others."
)


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
            place = np.searchsorted(dataset.class_ids, true_label).clip(max=dataset.num_classes - 1)
            shown &= dataset.class_ids[place] == true_label
            true = place[shown]
        return cls(dataset.label[shown], estimated[shown].astype(np.int64), true)
