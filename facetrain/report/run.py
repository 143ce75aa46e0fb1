"""A run as the report reads it: its stages, and the data sets that its labels are of."""

import functools
from pathlib import Path

from facetrain.core import run_folder
from facetrain.core.artifact import Artifact
from facetrain.data.cleaned_set import CleanedSet, cleaned_data, read_true_label
from facetrain.data.cleaning_result import CleaningResult
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.report.class_sizes import Ints, class_sizes
from facetrain.report.stages import Stage, read_stages


class Run:
    """The folder of a run, or of one stage.

    Raises:
        DataError: no stage is there, finished or not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.every_stage = read_stages(folder)

    @property
    def stages(self) -> list[Stage]:
        """Those that count, finished or not."""
        return [stage for stage in self.every_stage if not stage.set_aside]

    @property
    def finished(self) -> list[Artifact]:
        """What the finished ones left."""
        return [stage.artifact for stage in self.stages if stage.artifact is not None]

    @functools.cached_property
    def data(self) -> DataConfig | None:
        """The data set whose labels were cleaned, or trained on; None if unknown."""
        return cleaned_data(self.folder)

    @functools.cached_property
    def given(self) -> FaceDataset | None:
        """The data set with the labels that were cleaned; None where it is not here any more."""
        if self.data is None or not all(path.exists() for path in self.data.files):
            return None
        return FaceDataset.open(self.data.path, self.data.overlay, self.data.on_corrupt)

    def dataset(self, data: DataConfig | None) -> FaceDataset | None:
        """The data set of a training, or None where it is not here any more."""
        if data is None or not all(path.exists() for path in data.files):
            return None
        if self.given is not None and self.data is not None and data.path == self.data.path:
            return self.given.with_overlay(data.overlay)
        return FaceDataset.open(data.path, data.overlay, data.on_corrupt)

    @functools.cached_property
    def cleaned(self) -> dict[str, CleanedSet]:
        """Name of a stage `clean` -> what it decided, where its data set is known and here.

        Raises:
            DataError: the run's own cleaning is of other images.
        """
        found = {}
        for stage in self.stages:
            if stage.kind != "clean" or stage.artifact is None or self.given is None:
                continue
            other = stage.artifact.metrics["num_images"] != self.given.num_images
            if run_folder.round_of(stage.path) and other:  # a round on what an earlier one kept
                continue
            assert self.data is not None
            found[stage.name] = CleanedSet.open(stage.path, self.data, self.given)
        return found

    def result(self, stage: Stage) -> CleaningResult:
        """What a finished stage `clean` decided, whether its data set is here or not."""
        if stage.name in self.cleaned:
            return self.cleaned[stage.name].result
        return CleaningResult.load(stage.path / run_folder.CLEAN_FILE)

    @functools.cached_property
    def sizes(self) -> dict[str, Ints]:
        """Images of each identity, by whose labels: as given, cleaned, reviewed, true."""
        if self.given is None or self.data is None:
            return {}
        files = {
            "after cleaning": self.folder / run_folder.CLEAN / run_folder.OVERLAY_FILE,
            "after the review": self.folder / run_folder.REVIEW / run_folder.OVERLAY_FILE,
        }
        views, overlay = {"as given": class_sizes(self.given.label)}, []
        for name, file in files.items():
            if file.is_file() and LabelOverlay.load(file).source.any():
                overlay.append(file)
                after = self.given.with_overlay([*self.data.overlay, *overlay])
                views[name] = class_sizes(after.label)
        return views

    def true_label(self, dataset: FaceDataset | None, data: DataConfig | None) -> Ints | None:
        """The class ids that its images should have, (N,), where that is known."""
        if dataset is None or data is None:
            return None
        return read_true_label(dataset, data.overlay)
