"""Which data set a stage judged, kept in the stage's folder: `data.json`.

Paths below the run's folder are written relative to the stage's, so that a run may be moved.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from facetrain.core.artifact import read_json, write_json
from facetrain.core.config import parse_config
from facetrain.core.errors import DataError
from facetrain.core.run_folder import DATA_FILE
from facetrain.data.dataset import DataConfig


def write_stage_data(folder: Path, data: DataConfig) -> None:
    """Note in a stage's folder the data set, with its overlays, that the stage is of."""
    folder = Path(os.path.abspath(folder))

    def stored(path: Path) -> Path:
        absolute = Path(os.path.abspath(path))
        inside = absolute.is_relative_to(folder.parent)
        return Path(os.path.relpath(absolute, folder)) if inside else absolute

    section, file = _with_paths(data, stored).model_dump(mode="json"), folder / DATA_FILE
    found = None
    with contextlib.suppress(DataError):  # damaged, it is written again
        found = read_json(file)
    if found != section:  # a finished stage is left as it is
        write_json(file, section)


def read_stage_data(folder: Path) -> DataConfig | None:
    """The data set that the stage in `folder` is of; None where nothing was noted.

    Raises:
        DataError: the note cannot be read.
        ConfigError: it is no section `data`.
    """
    file = folder / DATA_FILE
    if not file.is_file():
        return None

    data = parse_config(DataConfig, read_json(file), str(file))
    return _with_paths(data, lambda path: Path(os.path.normpath(folder / path)))


def _with_paths(data: DataConfig, change: Callable[[Path], Path]) -> DataConfig:
    paths = {"path": tuple(map(change, data.path)), "overlay": tuple(map(change, data.overlay))}
    return data.model_copy(update=paths)
