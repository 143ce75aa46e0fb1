"""What there is to review in a run: its data set, and what the cleaner says of every image."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import read_artifact
from facetrain.core.errors import DataError
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.stage_data import DATA_FILE, read_stage_data

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class CleanedRun:
    """N images in the order of the data set, C identities numbered as it numbers them."""

    dataset: FaceDataset
    names: tuple[str, ...]  # (C,) what each identity is called; "" where nobody named it
    clean_probability: Floats  # (N,)
    threshold: Floats  # (C,)
    suggested: Ints  # (N,) the identity an image seems to be, or -1
    merge: Ints  # (C,) the identity that seems to be the same person, or -1
    duplicate_of: Ints  # (N,) an earlier image that this one copies, or -1
    undecided: Bools  # (N,)
    label: Ints  # (N,) where the cleaner puts the image
    kept: Bools  # (N,) whether it keeps the image, there

    @classmethod
    def open(cls, run_dir: Path) -> "CleanedRun":
        """Read the stage `clean` of a run, and open the data set that it judged.

        Raises:
            DataError: the stage is not finished, its data set is not where it was, or is another.
        """
        clean = read_artifact(run_dir / "clean")
        if clean is None:
            raise DataError(
                f"{run_dir}: must be the --out folder of a run that cleaned its labels, but it has "
                f"no finished stage clean; finish it with `facetrain run CONFIG --out {run_dir} "
                "clean={}` or `facetrain clean DATA --backbone B --out "
                f"{run_dir}`, or give another folder"
            )
        where = clean.path / DATA_FILE
        data = read_stage_data(clean.path)
        if data is None:
            raise DataError(
                f"{where}: must say which data set was cleaned, but there is no such file; "
                "run the same command that cleaned it again"
            )
        for path in (data.path, *data.overlay):
            if not path.exists():
                raise DataError(
                    f"{where}: must still be there, but there is no {path}; bring it back, or "
                    "start the review in the folder the run was started in"
                )
        dataset = FaceDataset.open(data.path, data.overlay, on_corrupt=data.on_corrupt)
        if clean.manifest["inputs"].get("data") != dataset.fingerprint:
            raise DataError(
                f"{clean.path}: must be of {data.path} with its overlays as they are now, but is "
                "of other labels or images; run `facetrain run` again"
            )
        with np.load(clean.path / "clean.npz", allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        merge = np.full(dataset.num_classes, -1)
        merge[dataset.label] = found["merge_label"]
        opinion = LabelOverlay.load(clean.path / "overlay.npz")
        kept = opinion.kept[dataset.row]
        said = np.where(kept & (opinion.label[dataset.row] >= 0), opinion.label[dataset.row], -1)
        place = np.searchsorted(dataset.class_ids, said).clip(max=dataset.num_classes - 1)
        return cls(
            dataset,
            _names(data.path, dataset.class_ids),
            found["clean_probability"],
            found["threshold"],
            found["suggested_label"],
            merge,
            found["duplicate_of"],
            found["undecided"],
            np.where(dataset.class_ids[place] == said, place, dataset.label),
            kept,
        )


def _names(data: Path, class_ids: Ints) -> tuple[str, ...]:
    """From the `classes.json` that `facetrain pack` leaves, where there is one."""
    file = (data if data.is_dir() else data.parent) / "classes.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: must be JSON, label -> name; {error}") from None
    return tuple(str(named.get(str(label), "")) for label in class_ids.tolist())
