"""A run as the report reads it: its stages, and the data sets that its labels are of."""

import dataclasses
import functools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from facetrain.core import run_folder
from facetrain.core.artifact import Artifact, read_artifact
from facetrain.core.errors import DataError
from facetrain.data.cleaned_set import CleanedSet, cleaned_data
from facetrain.data.cleaning_result import CleaningResult
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.review_journal import ACTIONS, read_journal
from facetrain.engine.meter import read_run_log
from facetrain.report.class_sizes import Ints, class_sizes


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: the folder within the run, which tells two trainings apart.
        kind: what `run_stage` calls it.
    """

    path: Path
    name: str
    kind: str
    artifact: Artifact | None

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """What a finished stage says of itself."""
        return None if self.artifact is None else self.artifact.manifest

    @property
    def seconds(self) -> float | None:
        """How long a finished stage took."""
        return None if self.manifest is None else float(self.manifest["seconds"])

    @property
    def set_aside(self) -> bool:
        """A training on other labels than now, kept beside the one that counts."""
        return run_folder.is_previous(self.path)

    @property
    def is_training(self) -> bool:
        """Whether it leaves training curves."""
        return self.kind in ("train", "finetune")

    @property
    def status(self) -> str:
        """`finished`, `unfinished` or `set aside`."""
        if self.set_aside:
            return "set aside"
        return "unfinished" if self.artifact is None else "finished"

    @property
    def file_suffix(self) -> str:
        """What tells its pictures from those of the first stage of its kind."""
        usual = self.name in (self.kind, "")
        return "" if usual else "_" + self.name.replace("/", "_")

    def so_far(self) -> str:
        """How far an unfinished stage came, in words."""
        last = datetime.fromtimestamp(_last_written(self.path)).strftime("%Y-%m-%d %H:%M")
        losses = [
            entry for entry in read_run_log(self.path / run_folder.LOG_FILE) if "loss" in entry
        ]
        words = []
        if losses:
            now = losses[-1]
            words.append(f"step {now['step']:,}, epoch {now['epoch']:.2f}, loss {now['loss']:.4g}")
        checkpoints = sorted((self.path / run_folder.CHECKPOINTS).glob("step_*"))
        if checkpoints:
            words.append(f"continues from step {int(checkpoints[-1].name[5:]):,}")
        return ", ".join([*(words or ["begun"]), f"last written {last}"])


def _last_written(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def _read(folder: Path, run_dir: Path) -> Stage | None:
    artifact = read_artifact(folder)
    name = "" if folder == run_dir else folder.relative_to(run_dir).as_posix()
    if artifact is not None:
        kind = str(artifact.manifest["stage"])
        read_here = [name for name in artifact.manifest["files"] if name.endswith(".npz")]
        if read_here:
            artifact.verify(*read_here)
        return Stage(folder, name or kind, kind, artifact)
    trains = (folder / run_folder.LOG_FILE).is_file() or (folder / run_folder.CHECKPOINTS).is_dir()
    if not trains and (folder == run_dir or folder.name not in run_folder.STAGE_OF_FOLDER):
        return None
    kind = run_folder.STAGE_OF_FOLDER.get(folder.name, "train")
    return Stage(folder, name or kind, kind, None)


def read_stages(run_dir: Path) -> list[Stage]:
    """Every stage of a run, or the one stage whose folder this is.

    The finished ones first, as they ended; then the others, as they were last written to.

    Raises:
        DataError: there is none.
    """
    own = _read(run_dir, run_dir)
    inside = sorted(path for path in run_dir.glob("*") if path.is_dir())
    rounds = [path for one in run_folder.round_folders(run_dir) for path in sorted(one.glob("*/"))]
    stages = [stage for one in (*inside, *rounds) if (stage := _read(one, run_dir))]
    if own is not None:  # what lies unfinished in a stage's own folder is its working files
        stages = [own, *(stage for stage in stages if stage.artifact is not None)]
    if not stages:
        raise DataError(
            f"{run_dir}: must be the --out folder of a run or a stage, but no finished stage "
            "(manifest.json) is there, and none under way; give another folder, or start the run"
        )

    def when(stage: Stage) -> tuple[bool, float]:
        if stage.artifact is not None:
            return False, (stage.path / run_folder.MANIFEST_FILE).stat().st_mtime_ns / 1e9
        return True, _last_written(stage.path)

    return sorted(stages, key=when)


def journal_counts(run_dir: Path) -> dict[str, tuple[int, int]] | None:
    """What a person decided in `review`: action -> (decisions, images); None without a review.

    Decisions that were taken back do not count. `seen` counts identities that were looked at.
    """
    path = run_dir / run_folder.REVIEW / run_folder.JOURNAL_FILE
    if not path.is_file():
        return None
    history = read_journal(path).history
    counts = {
        action: (
            sum(1 for one in history.done if one.action == action),
            sum(len(one.rows) for one in history.done if one.action == action),
        )
        for action in ACTIONS
    }
    return counts | {"seen": (len(history.seen), 0)}


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
