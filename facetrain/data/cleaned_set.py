"""A data set with what a cleaning says of it, as the report, the review and `write` read a run."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facetrain.core import run_folder
from facetrain.core.artifact import Artifact, read_artifact
from facetrain.core.config import parse_config
from facetrain.core.errors import DataError
from facetrain.data.cleaning_result import CleaningResult
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.files.npz_file import read_npz
from facetrain.data.overlay import LabelOverlay
from facetrain.data.stage_data import read_stage_data

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class CleanedSet:
    """N images in the order of the data set; its C classes by their place in `class_ids`."""

    dataset: FaceDataset
    result: CleaningResult  # its labels are class ids
    suggested: Ints  # (N,) the class that an image belongs to, or -1
    merge: Ints  # (C,) the class that seems to be the same person, or -1
    threshold: Floats  # (C,) on clean_probability; NaN for a class that was not judged
    label_after: Ints  # (N,) the class under which a training after the cleaning sees an image
    kept_after: Bools  # (N,) whether such a training sees it
    true_label: Ints | None  # (N,) class ids, where they are known
    names: tuple[str, ...]  # (C,) what each identity is called; "" where nobody named it

    @classmethod
    def open(
        cls, cleaning: Path, data: DataConfig, dataset: FaceDataset | None = None
    ) -> "CleanedSet":
        """Read a finished stage `clean` of a data set.

        Args:
            cleaning: folder of the stage.
            data: what was cleaned.
            dataset: the same, if it is open.

        Raises:
            DataError: the data set, the result or the truth cannot be read, or they do not fit.
        """
        if dataset is None:
            dataset = FaceDataset.open(data.path, data.overlay, on_corrupt=data.on_corrupt)
        path = cleaning / run_folder.CLEAN_FILE
        result = CleaningResult.load(path)
        if len(result.kept) != dataset.num_images:
            raise DataError(
                f"{path}: must be of the {dataset.num_images} images of {data.where} with its "
                f"overlays, but is of {len(result.kept)}; clean again"
            )
        places = {}
        for name in ("suggested_label", "merge_label", "class_id"):
            label = getattr(result, name)
            place = places[name] = class_place(dataset.class_ids, label)
            if len(unknown := np.flatnonzero((place < 0) & (label >= 0))):
                raise DataError(
                    f"{path}: {name} must be of labels of {data.where}, got {label[unknown[0]]}; "
                    "it is of another data set, clean again"
                )
        threshold = np.full(dataset.num_classes, np.nan, np.float32)
        threshold[places["class_id"]] = result.threshold
        merge = np.full(dataset.num_classes, -1)
        merge[dataset.label] = places["merge_label"]
        overlay = LabelOverlay.load(cleaning / run_folder.OVERLAY_FILE)
        if len(overlay.label) != dataset.num_rows:
            raise DataError(
                f"{cleaning / run_folder.OVERLAY_FILE}: must cover the {dataset.num_rows} images "
                f"of {data.where}, but has {len(overlay.label)} rows; clean again"
            )
        kept = overlay.kept[dataset.row]
        after = class_place(dataset.class_ids, np.where(kept, overlay.label[dataset.row], -1))
        return cls(
            dataset,
            result,
            places["suggested_label"],
            merge,
            threshold,
            np.where(after >= 0, after, dataset.label),
            kept,
            read_true_label(dataset, data.overlay),
            dataset.names,
        )

    @classmethod
    def open_run(cls, run_dir: Path) -> "CleanedSet":
        """Read a run that cleaned its labels, by a recipe or by `facetrain clean DATA`.

        Raises:
            DataError: its cleaning is not finished, or its data set is not where it was, or is
                another by now.
        """
        clean = read_artifact(cleaning_folder(run_dir))
        if clean is None or clean.manifest["stage"] != "clean":
            word = shlex.quote(str(run_dir))
            raise DataError(
                f"{run_dir}: must be the --out folder of a run that cleaned its labels, but it has "
                f"no finished stage clean; finish it with `facetrain run CONFIG --out {word} "
                f"clean={{}}` or `facetrain clean DATA --backbone B --out {word}`, or give "
                "another folder"
            )
        clean.verify(run_folder.CLEAN_FILE, run_folder.OVERLAY_FILE)
        data = read_stage_data(clean.path)
        file = clean.path / run_folder.DATA_FILE
        if data is None:
            raise DataError(
                f"{file}: must say which data set was cleaned, but there is no "
                "such file; run the same command that cleaned it again"
            )
        for path in data.files:
            if not path.exists():
                raise DataError(
                    f"{file}: must still be there, but there is no {path}; bring "
                    "it back, or start in the folder the run was started in"
                )
        dataset = FaceDataset.open(data.path, data.overlay, on_corrupt=data.on_corrupt)
        if clean.manifest["inputs"].get("data") != dataset.fingerprint:
            raise DataError(
                f"{clean.path}: must be of {data.where} with its overlays as they are now, but is "
                "of other labels or images; clean again"
            )
        return cls.open(clean.path, data, dataset)

    @property
    def is_clean(self) -> Bools | None:
        """Whether each label is right, (N,), where that is known."""
        return self.is_right(self.dataset.label)

    def swaps(self) -> Ints:
        """Pairs of images (S, 2) of which each belongs to the class that the other one is in.

        Where several cross between two classes, the surest of one go with the surest of the
        other. An image is in one pair at most.
        """
        image = np.flatnonzero(self.suggested >= 0)
        image = image[np.argsort(-self.result.suggested_probability[image], kind="stable")]
        label, to = self.dataset.label[image], self.suggested[image]
        low, high = np.minimum(label, to), np.maximum(label, to)
        order = np.lexsort((label > to, high, low))  # by pair of classes, then by direction
        image, low, high, down = image[order], low[order], high[order], (label > to)[order]
        start = np.flatnonzero(np.diff(np.stack([low, high, down]), prepend=-1).any(0))
        rank = np.arange(len(image)) - np.repeat(start, np.diff(np.append(start, len(image))))
        order = np.lexsort((down, rank, high, low))
        same = np.stack([low, high, rank])[:, order]
        first = np.flatnonzero((same[:, 1:] == same[:, :-1]).all(0))
        return image[order][np.stack([first, first + 1], 1)].astype(np.int64)

    def is_right(self, place: Ints) -> Bools | None:
        """Whether other classes (N,), by place or -1, would be right, (N,), where that is known."""
        if self.true_label is None:
            return None
        is_right: Bools = self.dataset.class_ids[place] == self.true_label
        return is_right & (place >= 0)


def cleaning_folder(run_dir: Path) -> Path:
    """Where the stage `clean` of a run is; of a folder that holds that stage alone, it itself."""
    inside = run_dir / run_folder.CLEAN
    alone = (run_dir / run_folder.CLEAN_FILE).is_file() and not inside.is_dir()
    return run_dir if alone else inside


def class_place(class_ids: Ints, label: ArrayLike) -> Ints:
    """Where labels (...) stand among `class_ids` (C,), ascending; -1 for one that is not there."""
    label = np.asarray(label)
    place = np.searchsorted(class_ids, label).clip(max=len(class_ids) - 1)
    return np.where(class_ids[place] == label, place, -1).astype(np.int64)


def cleaned_data(run_dir: Path) -> DataConfig | None:
    """The data set of a run with the labels as given: what was cleaned, or first trained on."""
    if (data := read_stage_data(run_dir / run_folder.CLEAN)) is not None:
        return data
    train = read_artifact(run_dir / run_folder.TRAIN)
    return None if train is None else data_of_stage(train)


def data_of_stage(stage: Artifact) -> DataConfig | None:
    """The section `data` of a finished training's config, if it has one."""
    section = stage.manifest["config"].get("data")
    where = f"{stage.path / run_folder.MANIFEST_FILE}: data"
    return None if section is None else parse_config(DataConfig, section, where)


def read_true_label(dataset: FaceDataset, overlay: Sequence[Path]) -> Ints | None:
    """The class ids that the images should have, (N,), or None where nobody knows.

    `facetrain corrupt` leaves `truth.npz` beside the overlay it writes; there it is found again.

    Raises:
        DataError: the file is damaged, or of another data set.
    """
    for one in overlay:
        file = (one if one.is_dir() else one.parent) / run_folder.TRUTH_FILE
        if not file.is_file():
            continue
        true_label = read_npz(file, "a truth (.npz with true_label)").get("true_label")
        if true_label is None or true_label.dtype.kind not in "iu":
            raise DataError(f"{file}: must be an .npz with true_label, integers")
        if true_label.shape != (dataset.num_rows,):
            raise DataError(
                f"{file}: true_label must cover the {dataset.num_rows} images of the data set, "
                f"got {true_label.shape}; it belongs to another one, move it away"
            )
        return true_label[dataset.row].astype(np.int64)
    return None
